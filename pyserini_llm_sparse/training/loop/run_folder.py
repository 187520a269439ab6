"""The folder of a run under way: its run file, checkpoints and logs, and what it takes to go on after a stop."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import orjson
from transformers import TrainerCallback
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import get_last_checkpoint

from pyserini_llm_sparse.errors import DataError, UsageError
from pyserini_llm_sparse.files.atomic import atomic_file
from pyserini_llm_sparse.files.outputs import require_folder
from pyserini_llm_sparse.training.config.arguments import LOGS
from pyserini_llm_sparse.training.config.fields import ModelConfig

STATE_FILE = "run.json"


class RunFolder:
    """``<output>.run`` beside the result, which appears only when the run is finished.

    Attributes:
        path: The folder.
    """

    def __init__(self, config: ModelConfig) -> None:
        """Name the folder of a run; `prepare` makes it."""
        self.path = config.output.parent / f"{config.output.name}.run"
        self._config = config

    def prepare(self, overwrite: bool) -> None:
        """Make the folder, or take over that of the same run; to be called in one process.

        Args:
            overwrite: Whether an earlier result and another run's folder are replaced.

        Raises:
            UsageError: The result is there already, or the folder is that of another run.
            DataError: The folder's state cannot be read.
        """
        require_folder(self._config.output, overwrite)
        if overwrite:
            shutil.rmtree(self.path, ignore_errors=True)
        for checkpoint in self.path.glob("checkpoint-*"):
            if not _is_complete(checkpoint):
                shutil.rmtree(checkpoint)
        fields = self._config.model_dump(mode="json")
        state = self._state()
        if state is None or self.last_checkpoint() is None:  # nothing to go on from
            shutil.rmtree(self.path / LOGS, ignore_errors=True)
            self.path.mkdir(parents=True, exist_ok=True)
            self._write({"config": fields, "seconds": 0.0})
            return
        earlier = state["config"]
        differing = sorted(name for name in {*fields, *earlier} if fields.get(name) != earlier.get(name))
        if differing:
            listed = "; ".join(f"{name} was {earlier.get(name)!r}, is {fields.get(name)!r}" for name in differing)
            raise UsageError(
                f"{self.path}: holds a run with other settings: {listed}; go on with those, or start again with "
                "--overwrite"
            )

    def last_checkpoint(self) -> str | None:
        """Return the checkpoint to go on from; None at the start."""
        if not self.path.is_dir():
            return None
        return get_last_checkpoint(str(self.path))

    def seconds(self) -> float:
        """Return the time that the finished parts of the run have taken."""
        state = self._state()
        return float(state["seconds"]) if state is not None else 0.0

    def clock(self) -> TrainerCallback:
        """Return the callback that keeps the time; in the first process only."""
        return _Clock(self)

    def finish(self) -> None:
        """Free the disk of what a finished run does not need; the logs stay."""
        (self.path / STATE_FILE).unlink(missing_ok=True)
        for checkpoint in self.path.glob("checkpoint-*"):
            shutil.rmtree(checkpoint, ignore_errors=True)

    def _add(self, seconds: float) -> None:
        state = self._state()
        if state is not None:
            self._write({**state, "seconds": state["seconds"] + seconds})

    def _state(self) -> dict[str, Any] | None:
        path = self.path / STATE_FILE
        if not path.is_file():
            return None
        try:
            state = orjson.loads(path.read_bytes())
            return {"config": dict(state["config"]), "seconds": float(state["seconds"])}
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(f"{path}: damaged: {error}; start the run again with --overwrite") from error

    def _write(self, state: dict[str, Any]) -> None:
        with atomic_file(self.path / STATE_FILE) as stream:
            stream.write(orjson.dumps(state, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


def _is_complete(checkpoint: Path) -> bool:
    """Tell whether the Trainer had finished writing a checkpoint: its state is what it writes last."""
    try:
        return isinstance(orjson.loads((checkpoint / TRAINER_STATE_NAME).read_bytes()), dict)
    except (OSError, ValueError):
        return False


class _Clock(TrainerCallback):
    """Adds the time since the last checkpoint to the run's whenever one is written, and at the end."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder, self._since = folder, time.monotonic()

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._since = time.monotonic()

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._keep(state)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._keep(state)

    def _keep(self, state: Any) -> None:
        if state.is_world_process_zero:
            now = time.monotonic()
            self._folder._add(now - self._since)
            self._since = now
