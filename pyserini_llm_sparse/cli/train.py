"""``train``: a command for each phase, which runs as its run file says; any field of the file is an option, too."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer

from pyserini_llm_sparse.cli.console import examples, progress_bar, say, without_java_warnings
from pyserini_llm_sparse.cli.help_groups import TRAINER, GroupedCommand, group_of
from pyserini_llm_sparse.modelling.spec import EncodingSpec
from pyserini_llm_sparse.training.config.fields import CONFIGS, Phase

NAME = "train"
HELP = """Train models, in up to five phases.

Each phase is a command and takes a run file, any field of which is an option, too.
"""
EXAMPLES = {
    "calibrate": ("train calibrate --model HuggingFaceTB/SmolLM2-135M --texts corpus.jsonl --output calibrated",),
    "adapt": (
        "train adapt examples/training/small/adapt.yaml",
        "train adapt --model meta-llama/Llama-3.2-1B --texts corpus.jsonl --output adapted --attention causal",
    ),
    "retrieve": (
        "train retrieve examples/training/small/retrieve.yaml",
        "train retrieve examples/training/small/retrieve.yaml --seed 7 --max-steps 100 --trainer optim=adafactor",
    ),
    "mine": ("train mine --train pairs.jsonl --encoder bm25 --negatives 15 --output mined.jsonl",),
    "score": (
        "train score --train mined.jsonl --teacher cross-encoder/ms-marco-MiniLM-L-6-v2 --output scored.jsonl",
        "train score --train mined.jsonl --teacher csplade --kind sparse --output scored.jsonl",
    ),
}
PHASE_HELP = {
    "calibrate": "Make a language model's logits sparse, without training.",
    "adapt": "Prepare a language model for sparse retrieval.",
    "retrieve": "Train a sparse or dense retriever.",
    "mine": "Find hard negatives with BM25 or a model.",
    "score": "Score queries and documents with a teacher.",
}
# Arguments of transformers' Trainer that a run often sets, as options of their own: how they are written, and what for.
TRAINER_OPTIONS = {
    "max_steps": ("N", "Optimiser steps"),
    "num_train_epochs": ("NUMBER", "Passes over the data, without max_steps"),
    "learning_rate": ("NUMBER", "Largest learning rate"),
    "warmup_steps": ("N", "Steps until it is reached"),
    "per_device_train_batch_size": ("N", "Queries or sequences of a device in a step"),
    "gradient_accumulation_steps": ("N", "Batches that make a step"),
    "bf16": ("true|false", "Whether to compute in bfloat16"),
    "gradient_checkpointing": ("true|false", "Whether activations are recomputed rather than kept"),
    "eval_steps": ("N", "Steps between evaluations"),
    "save_steps": ("N", "Steps between checkpoints"),
    "logging_steps": ("N", "Steps between lines of the log"),
}
GOING_ON = """

A field that is given here replaces the run file's. An interrupted run goes on when the same command is given again.
"""


def phase_app(settings: dict[str, Any]) -> typer.Typer:
    """Return the command group ``train`` with a command for each phase."""
    group = typer.Typer(
        name=NAME,
        no_args_is_help=True,
        context_settings=settings,
        rich_markup_mode=None,
        help=HELP,
        epilog=examples("train retrieve examples/training/small/retrieve.yaml"),
    )
    for phase in CONFIGS:
        group.command(
            phase,
            cls=GroupedCommand,
            help=PHASE_HELP[phase] + GOING_ON,
            epilog=examples(*EXAMPLES[phase]),
            context_settings=settings,
        )(_phase_command(phase))  # type: ignore[arg-type]
    return group


def _phase_command(phase: Phase) -> Callable[..., None]:
    """Return the function of a phase; its signature, from which the options are made, follows the run file's fields."""

    def command(config: Path | None, overwrite: bool, **fields: str | list[str] | None) -> None:
        overrides = []
        for name, value in fields.items():
            values = value if isinstance(value, list) else [] if value is None else [value]
            if name in TRAINER_OPTIONS:
                overrides += [f"trainer.{name}={given}" for given in values]
            elif name == "trainer":
                overrides += [f"trainer.{given}" for given in values]
            elif _is_list(CONFIGS[phase].model_fields[name].annotation) and values:
                overrides.append(f"{name}=[{', '.join(values)}]")
            else:
                overrides += [f"{name}={given}" for given in values]
        _run(phase, config, overrides, overwrite)

    fields_of = CONFIGS[phase].model_fields
    parameters = [
        _parameter("config", Path | None, typer.Argument(help="The run file (YAML)."), None),
        *(_field_parameter(name, field) for name, field in fields_of.items()),
        *(
            _parameter(name, str | None, _option(name, metavar, f"{what} (trainer: {name})", TRAINER), None)
            for name, (metavar, what) in TRAINER_OPTIONS.items()
            if "trainer" in fields_of
        ),
        _parameter("overwrite", bool, typer.Option("--overwrite", help="Replace what an earlier run wrote."), False),
    ]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


def _run(phase: Phase, path: Path | None, overrides: list[str], overwrite: bool) -> None:
    """Run a phase and say where its result is."""
    from pyserini_llm_sparse.training.config.run_file import load_config

    config = load_config(phase, path, overrides)
    report: Any
    if phase in ("adapt", "retrieve"):
        from pyserini_llm_sparse.training.run import adapt, retrieve

        report = adapt(config, overwrite) if phase == "adapt" else retrieve(config, overwrite)
    elif phase == "calibrate":
        from pyserini_llm_sparse.training.preparation.calibrating import calibrate

        report = calibrate(config, overwrite)
    elif phase == "mine":
        from pyserini_llm_sparse.training.preparation.mining import mine

        with without_java_warnings(), progress_bar(lambda: None, "queries") as progress:
            report = mine(config, overwrite=overwrite, progress=progress)
    else:
        from pyserini_llm_sparse.training.preparation.scoring import score

        with progress_bar(lambda: None, "examples") as progress:
            report = score(config, overwrite=overwrite, progress=progress)
    say(report.summary())


def _field_parameter(name: str, field: Any) -> inspect.Parameter:
    """Return the option of a run file's field; values stay text here, and are read as the file's are."""
    metavar = "KEY=VALUE" if name == "trainer" else _metavar(field.annotation)
    default = (
        ""
        if field.is_required() or field.default in (None, ())
        else f" [{_shown(field.get_default(call_default_factory=True))}]"
    )
    group = TRAINER if name == "trainer" else group_of(name, is_of_spec=name in EncodingSpec.model_fields)
    option = _option(name, metavar, field.description + (default if default != " []" else ""), group)
    several = name == "trainer" or _is_list(field.annotation)
    return _parameter(name, list[str] | None if several else str | None, option, None)


def _option(name: str, metavar: str, text: str, group: str) -> Any:
    return typer.Option(f"--{name.replace('_', '-')}", metavar=metavar, help=text, rich_help_panel=group)


def _parameter(name: str, kind: Any, option: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, option])


def _is_list(annotation: Any) -> bool:
    return get_origin(_given(annotation)) is tuple


def _given(annotation: Any) -> Any:
    """Return the type of a value that is given, of a field that may be left open."""
    if get_origin(annotation) in (Union, types.UnionType):
        return next(kind for kind in get_args(annotation) if kind is not type(None))
    return annotation


def _metavar(annotation: Any) -> str:
    """Return how a value is written: its choices, or its kind."""
    annotation = _given(annotation)
    if get_origin(annotation) is Literal:
        return "|".join(map(str, get_args(annotation)))
    return {int: "N", float: "NUMBER", bool: "true|false", Path: "PATH"}.get(annotation, "TEXT")


def _shown(value: Any) -> str:
    """Return a default as it would be written in a run file."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    return f"{value:.3g}" if isinstance(value, float) else str(value) if value != {} else ""
