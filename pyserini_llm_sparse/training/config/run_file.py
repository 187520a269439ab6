"""The reader of run files: one flat YAML file a phase, any field of which the command line can override."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pyserini_llm_sparse.errors import DataError, UsageError, at
from pyserini_llm_sparse.files.settings import listed, mistakes, read_settings, read_value
from pyserini_llm_sparse.training.config.fields import CONFIGS, Phase


def load_config(phase: Phase, path: str | Path | None, overrides: Sequence[str] = ()) -> Any:
    """Read and check the run file of a phase.

    Args:
        phase: Which phase.
        path: The YAML file; None if all fields are given as overrides.
        overrides: ``field=value`` or ``trainer.field=value``, the value written as in YAML; the last one counts.

    Returns:
        The `CONFIGS` class of the phase. Relative paths are relative to the working directory, as on a command line.

    Raises:
        ResourceError: The file cannot be read.
        DataError: It is not YAML, or a field is unknown or has an impossible value; the line is named.
        UsageError: An override is malformed, or a field that it gives is wrong.
    """
    content, lines = read_settings(Path(path), "run file") if path is not None else ({}, {})
    given = _parse_overrides(overrides)
    merged: dict[str, Any] = {**content, **{name: value for name, value in given.items() if name != "trainer"}}
    if "trainer" in given:
        merged["trainer"] = {**(content.get("trainer") or {}), **given["trainer"]}
    for name in ("train", "texts", "lora_targets"):
        if isinstance(merged.get(name), str):
            merged[name] = [merged[name]]
    try:
        return CONFIGS[phase].model_validate(merged)
    except ValidationError as error:
        found = mistakes(error, lines, "or see `train --help` for the fields of the phase")
        message = listed(
            [
                f"{'command line' if one.field in given or path is None else at(path, one.line)}: {one.reason}"
                for one in found
            ]
        )
        from_command_line = path is None or all(one.field in given for one in found)
        raise (UsageError if from_command_line else DataError)(message) from error


def _parse_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    """Read ``field=value`` arguments; those of ``trainer.`` are gathered under its key."""
    found: dict[str, Any] = {}
    for override in overrides:
        name, equals, text = override.removeprefix("--").partition("=")
        if not equals or not name:
            raise UsageError(f"{override}: not an override: field=value is expected, such as seed=7")
        try:
            value = read_value(text)
        except ValueError as error:
            raise UsageError(f"{override}: the value is not YAML; quote it") from error
        name = name.replace("-", "_")
        if name.startswith("trainer."):
            found.setdefault("trainer", {})[name.removeprefix("trainer.")] = value
        else:
            found[name] = value
    return found
