"""The arguments of transformers' Trainer, from the ``trainer`` key of a run file and from what the phase decides."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import transformers
from transformers import Trainer, TrainingArguments
from transformers.integrations import get_available_reporting_integrations
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from pyserini_llm_sparse.errors import PrerequisiteError, UsageError, one_line
from pyserini_llm_sparse.training.config.fields import ModelConfig, RetrieveConfig

LOGS = "logs"  # folder in a run's folder that TensorBoard reads
SAVE_STEPS = 500

# Where the run file does not say otherwise. All batches have the same size, which gathering asks for; every weight
# that is trained gets a gradient in every step, so DDP need not search for those that do not.
DEFAULTS: dict[str, Any] = {
    "dataloader_drop_last": True,
    "ddp_find_unused_parameters": False,
    "logging_nan_inf_filter": False,
    "save_total_limit": 2,
    "restore_callback_states_from_checkpoint": True,
}
# Old and new names of one argument, of which a version of transformers knows one or both.
_RENAMED = {
    "gradient_checkpointing": "activation_checkpointing",
    "gradient_checkpointing_kwargs": "activation_checkpointing_kwargs",
}


def training_arguments(config: ModelConfig, run_folder: str | Path, *, evaluates: bool = False) -> TrainingArguments:
    """Return the Trainer's arguments for a run.

    Must be called before the model is built: DeepSpeed and FSDP decide here how weights are loaded.

    Args:
        config: The run file.
        run_folder: Where the run's checkpoints and logs go.
        evaluates: Whether there is something to evaluate on. Then checkpoints are written when it has been, and the
            best of them is what the run ends with.

    Raises:
        UsageError: An argument is unknown or impossible, or early stopping has nothing to go by.
        PrerequisiteError: A library that an argument asks for is not installed.
    """
    given = _named_as_here(config.trainer)
    if config.early_stopping_patience is not None and not evaluates:
        what = "dev: a BEIR directory" if isinstance(config, RetrieveConfig) else "held_out_texts: N"
        raise UsageError(f"early_stopping_patience: there is nothing to evaluate on; set {what}")
    fields = {field.name for field in dataclasses.fields(TrainingArguments)}
    values: dict[str, Any] = {
        **{name: value for name, value in DEFAULTS.items() if name in fields},
        "report_to": ["tensorboard"] if find_spec("tensorboard") else [],
        "disable_tqdm": not sys.stderr.isatty(),
        "dataloader_pin_memory": _has_gpu() and not given.get("use_cpu"),
        **given,
        "output_dir": str(run_folder),
        "seed": config.seed,
        "data_seed": config.seed,
        "remove_unused_columns": False,  # what they mean is the collator's business
        "label_names": [],
        # Each process reads a stream for itself and takes its share; else the first would tokenise for all.
        "accelerator_config": {"dispatch_batches": False, **(given.get("accelerator_config") or {})},
        **_evaluation(config, given, evaluates),
    }
    if given.get("fsdp"):
        values["fsdp_config"] = {"cpu_ram_efficient_loading": True, **(given.get("fsdp_config") or {})}
    try:
        arguments = TrainingArguments(**values)
        _require_packages(arguments)
    except ImportError as error:
        raise PrerequisiteError(f"trainer: {one_line(error)}; install it, or leave the argument out") from error
    except (ValueError, TypeError) as error:
        raise UsageError(f"trainer: {one_line(error)}; correct the run file") from error
    if arguments.fsdp and arguments.world_size > 1:
        # Seeing this, transformers loads a model once for all processes of a machine; accelerate sets it too late.
        os.environ["ACCELERATE_USE_FSDP"] = "true"
        os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = str(values["fsdp_config"]["cpu_ram_efficient_loading"]).lower()
    return arguments


def _require_packages(arguments: TrainingArguments) -> None:
    """Look for what the Trainer would miss only after data and model have been read.

    Raises:
        ImportError: A package is not installed; what it is for is said.
        ValueError: There is no such report.
    """
    known, available = set(INTEGRATION_TO_CALLBACK), set(get_available_reporting_integrations())
    reports = arguments.report_to or ()
    for name in [reports] if isinstance(reports, str) else reports:
        if name not in known:
            raise ValueError(f"report_to: {name}: not one of {', '.join(sorted(known))}")
        if name not in available:
            raise ImportError(f"report_to: {name}: not installed: pip install {name.replace('_', '-')}")
    with contextlib.suppress(ValueError):  # that it needs the model, say, to be asked again with it
        Trainer.get_optimizer_cls_and_kwargs(arguments)


def _named_as_here(given: dict[str, Any]) -> dict[str, Any]:
    """Return the run file's arguments under the names that this transformers knows, refusing others."""
    fields = {field.name for field in dataclasses.fields(TrainingArguments)}
    other_names = {**_RENAMED, **{new: old for old, new in _RENAMED.items()}}
    named: dict[str, Any] = {}
    for name, value in given.items():
        if name in _RENAMED and _RENAMED[name] in fields:
            named[_RENAMED[name]] = value  # the old one, though still known, warns
        elif name in fields:
            named[name] = value
        elif other_names.get(name) in fields:
            named[other_names[name]] = value
        else:
            near = difflib.get_close_matches(name, sorted(fields), 1)
            raise UsageError(
                f"trainer: {name}: no argument of transformers' Trainer ({transformers.__version__}); "
                f"{f'did you mean {near[0]}? ' if near else ''}correct or remove it"
            )
    return named


def _evaluation(config: ModelConfig, given: dict[str, Any], evaluates: bool) -> dict[str, Any]:
    """Return when to evaluate and save, and what the best checkpoint goes by."""
    if not evaluates:
        return {"save_strategy": "steps", "save_steps": given.get("save_steps", SAVE_STEPS), "eval_strategy": "no"}
    eval_steps = given.get("eval_steps", given.get("save_steps", SAVE_STEPS))
    is_retrieval = isinstance(config, RetrieveConfig)
    return {
        "eval_strategy": "steps",
        "eval_steps": eval_steps,
        "save_strategy": "steps",
        "save_steps": given.get("save_steps", eval_steps),
        "load_best_model_at_end": True,
        "metric_for_best_model": f"eval_{config.dev_metric}" if isinstance(config, RetrieveConfig) else "eval_loss",
        "greater_is_better": is_retrieval,
    }


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()
