"""The folder of a run under way: its run file, checkpoints and logs, and what it takes to go on after a stop."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
from transformers import TrainerCallback
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import get_last_checkpoint

from pyserini_llm_sparse.errors import DataError, UsageError
from pyserini_llm_sparse.files.atomic import disk_errors
from pyserini_llm_sparse.files.digests import KnownDigests
from pyserini_llm_sparse.files.outputs import require_folder
from pyserini_llm_sparse.files.work import LOCK, Work, load, remove_lock, require_same
from pyserini_llm_sparse.training.config.arguments import LOGS
from pyserini_llm_sparse.training.config.fields import ModelConfig
from pyserini_llm_sparse.training.loop.identity import known_of_both, run_settings
from pyserini_llm_sparse.training.loop.start import FOLDER, MEASURES

STATE_FILE = "run.json"

# Whose lock this process has: a run that failed in it does not keep the next one out.
_of_this_process: dict[Path, Work] = {}


class RunFolder:
    """``<output>.run`` beside the result, which appears only when the run is finished.

    Attributes:
        path: The folder.
    """

    def __init__(self, config: ModelConfig) -> None:
        """Name the folder of a run; `prepare` makes it."""
        self.path = config.output.parent / f"{config.output.name}.run"
        self._config = config
        self._work = _of_this_process.get(self.path.absolute()) or Work(config.output, self.path)

    @property
    def start_measures(self) -> Path:
        """The file of what was measured before the first step."""
        return self.path / MEASURES

    def digests(self) -> KnownDigests:
        """Return the digests of files that this run knows already from before a stop."""
        try:
            state = self._state() or {}
        except DataError:  # which `prepare` says, or replaces
            state = {}
        return KnownDigests(state.get("digests"))

    def prepare(self, overwrite: bool, stands_on: Mapping[str, Any] | None = None) -> None:
        """Lock the folder and compare the run in it, if any; to be called in one process, which keeps the lock.

        Nothing is changed but that the folder is made.

        Args:
            overwrite: Whether an earlier result and another run's folder may be replaced.
            stands_on: What the run depends on beside its run file; see `identity.stands_on`.

        Raises:
            UsageError: The result is there already, or the folder is that of another run.
            DataError: The folder's state cannot be read.
            RunError: Another process trains to this output.
        """
        require_folder(self._config.output, overwrite)
        self._work.take(lambda: None if overwrite else self._require_same(stands_on or {}))
        _of_this_process[self.path.absolute()] = self._work

    def begin(
        self, overwrite: bool, stands_on: Mapping[str, Any] | None = None, digests: KnownDigests | None = None
    ) -> None:
        """Make the folder that of this run, after `prepare` and when all is there that the run needs.

        Args:
            overwrite: Whether what another run left in it is removed.
            stands_on: As of `prepare`.
            digests: Those of the run's files, to be kept.
        """
        with disk_errors(self.path):
            if overwrite:
                self._work.clear()
            for checkpoint in self.path.glob("checkpoint-*"):
                if not _is_complete(checkpoint):
                    shutil.rmtree(checkpoint)
            state, goes_on = self._state(), self.last_checkpoint() is not None
            for name in () if goes_on else (LOGS, FOLDER):
                shutil.rmtree(self.path / name, ignore_errors=True)
            if not goes_on:
                (self.path / MEASURES).unlink(missing_ok=True)
            self._write(
                {
                    "config": self._config.model_dump(mode="json"),
                    "stands_on": dict(stands_on or {}),
                    "seconds": state["seconds"] if goes_on and state is not None else 0.0,
                    "digests": digests.content() if digests is not None else {},
                }
            )

    def last_checkpoint(self) -> str | None:
        """Return the checkpoint to go on from; None at the start."""
        return get_last_checkpoint(str(self.path)) if self.path.is_dir() else None

    def seconds(self) -> float:
        """Return the time that the finished parts of the run have taken."""
        state = self._state()
        return float(state["seconds"]) if state is not None else 0.0

    def clock(self) -> TrainerCallback:
        """Return the callback that keeps the time; in the first process only."""
        return _Clock(self)

    def finish(self) -> None:
        """Free the disk of what a finished run does not need; the logs stay."""
        for name in (STATE_FILE, MEASURES):
            (self.path / name).unlink(missing_ok=True)
        for folder in (self.path / FOLDER, *self.path.glob("checkpoint-*")):
            shutil.rmtree(folder, ignore_errors=True)
        remove_lock(self.path / LOCK)
        self._work.release()
        _of_this_process.pop(self.path.absolute(), None)

    def _require_same(self, stands_on: Mapping[str, Any]) -> None:
        state = self._state()
        if state is None or not any(map(_is_complete, self.path.glob("checkpoint-*"))):
            return  # there is nothing to go on from
        # A field that the version before did not have yet was what it is by default.
        known = type(self._config).model_construct().model_dump(mode="json")
        settings, before = run_settings(self._config.model_dump(mode="json")), run_settings(known | state["config"])
        now, then = known_of_both(stands_on, state["stands_on"])
        require_same(self.path, settings | now, before | then, UsageError)

    def _add(self, seconds: float) -> None:
        state = self._state()
        if state is not None:
            self._write({**state, "seconds": state["seconds"] + seconds})

    def _state(self) -> dict[str, Any] | None:
        return load(self.path / STATE_FILE, _parsed)

    def _write(self, state: dict[str, Any]) -> None:
        self._work.write(STATE_FILE, orjson.dumps(state, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


def _parsed(content: bytes) -> dict[str, Any]:
    state = orjson.loads(content)
    return {
        "config": dict(state["config"]),
        "stands_on": dict(state.get("stands_on") or {}),
        "seconds": float(state["seconds"]),
        "digests": dict(state.get("digests") or {}),
    }


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
