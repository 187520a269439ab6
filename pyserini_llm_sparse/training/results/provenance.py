"""The record of how a training result was made: versions, devices, the run file and the log."""

from __future__ import annotations

import dataclasses
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import yaml

from pyserini_llm_sparse.system import installed_version
from pyserini_llm_sparse.training.config.fields import CONFIGS, ModelConfig
from pyserini_llm_sparse.training.results.progress import Change
from pyserini_llm_sparse.version import __version__

FOLDER = "training"  # in the result
PACKAGES = ("torch", "transformers", "peft", "accelerate", "tokenizers", "safetensors", "pyserini")


@dataclass(frozen=True)
class TrainingRecord:
    """The facts known of a finished run.

    Attributes:
        config: Its resolved run file.
        environment: What `environment` returned.
        data: What `sources.source_fingerprints` returned.
        log: The lines that the Trainer logged (``trainer.state.log_history``).
        measures: What the result reaches on the development set, as `evaluation.evaluate` returns it.
        facts: Further numbers for the model card, by what they are called there, such as ``{"optimiser steps": 1000,
            "training examples": 502939, "documents in a step": 512}``.
        seconds: Wall time of the training, all resumed parts together; None if unknown.
        changes: What training changed of the measures of retrieval.
        kept: The step whose checkpoint the result is, where it was chosen; 0 for the model before training.
        dtype: Type of the saved weights; None for that of the model in memory.
    """

    config: ModelConfig
    environment: Mapping[str, Any] = field(default_factory=dict)
    data: Sequence[Mapping[str, Any]] = ()
    log: Sequence[Mapping[str, Any]] = ()
    measures: Mapping[str, float] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    seconds: float | None = None
    changes: Sequence[Change] = ()
    kept: int | None = None
    dtype: str | None = None

    @property
    def phase(self) -> str:
        """``adapt`` or ``retrieve``."""
        return next(name for name, kind in CONFIGS.items() if type(self.config) is kind)


def environment(accelerator: Any = None) -> dict[str, Any]:
    """Return versions, devices and processes of this run.

    Args:
        accelerator: The run's `accelerate.Accelerator`, which knows the processes; None for a single one.
    """
    import torch

    found: dict[str, Any] = {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "pyserini_llm_sparse": __version__,
    }
    found |= {name: version for name in PACKAGES if (version := installed_version(name)) is not None}
    found["torch"] = torch.__version__  # with its build, which the installed package's version lacks
    device = accelerator.device if accelerator is not None else torch.device("cuda" if _has_cuda() else "cpu")
    if device.type == "cuda":
        found["cuda"] = torch.version.cuda
        found["device"] = torch.cuda.get_device_name(device)
    else:
        found["device"] = f"{device.type} ({os.cpu_count()} cores)" if device.type == "cpu" else device.type
    found["processes"] = accelerator.num_processes if accelerator is not None else 1
    if accelerator is not None:
        found["distributed"] = str(accelerator.distributed_type).removeprefix("DistributedType.")
        found["mixed_precision"] = str(accelerator.mixed_precision)
    return found


def write_record(folder: Path, record: TrainingRecord) -> None:
    """Write config.yaml, environment.json, data.json, metrics.jsonl and the figure into ``<folder>/training``."""
    from pyserini_llm_sparse.training.results.plots import plot_training

    target = folder / FOLDER
    target.mkdir()
    (target / "config.yaml").write_text(resolved_yaml(record), encoding="utf-8")
    about = {**record.environment, "seconds": record.seconds, **record.facts, "measures": dict(record.measures)}
    if record.changes:
        about["changes"] = {one.measure: dataclasses.asdict(one) for one in record.changes}
    (target / "environment.json").write_bytes(_json(about))
    (target / "data.json").write_bytes(_json([dict(source) for source in record.data]))
    _write_log(target / "metrics.jsonl", record.log)
    plot_training(record.log, target / "training.png", record.kept)


def resolved_yaml(record: TrainingRecord) -> str:
    """Return the run file with all defaults written out; `load_config` reads it back to the same."""
    fields = record.config.model_dump(mode="json")
    head = f"# python -m pyserini_llm_sparse train {record.phase} {FOLDER}/config.yaml\n"
    return head + yaml.safe_dump(fields, sort_keys=False, allow_unicode=True, width=120)


def _write_log(path: Path, log: Iterable[Mapping[str, Any]]) -> None:
    """Write log lines as JSON lines; a number that is not finite becomes null."""
    with path.open("wb") as stream:
        for line in log:
            stream.write(orjson.dumps(dict(line), default=str, option=_OPTIONS) + b"\n")


_OPTIONS = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS


def _json(content: Any) -> bytes:
    return orjson.dumps(content, default=str, option=_OPTIONS | orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def _has_cuda() -> bool:
    import torch

    return bool(torch.cuda.is_available())
