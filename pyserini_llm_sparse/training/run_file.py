"""Reads the run file of a training phase: one flat YAML file, any field overridable on the command line."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pyserini_llm_sparse.errors import DataError, ResourceError, UsageError, at
from pyserini_llm_sparse.training.config import CONFIGS, Phase


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
    content, lines = _read_yaml(Path(path)) if path is not None else ({}, {})
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
        found = sorted(error.errors(), key=lambda one: lines.get(_field(one), 0))
        message = "; ".join(_reason(one, lines, path, given) for one in found)
        from_command_line = path is None or all(_field(one) in given for one in found)
        raise (UsageError if from_command_line else DataError)(message) from error


def _read_yaml(path: Path) -> tuple[dict[str, Any], dict[str, int]]:
    """Return a YAML file's mapping and the line of each of its keys."""
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ResourceError(f"{path}: cannot read the run file: {error.strerror}; check the path") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not a run file: not UTF-8 ({error.reason}); save it as UTF-8") from error
    try:
        node = yaml.compose(text, Loader=_yaml_loader())
        content = yaml.load(text, Loader=_yaml_loader())  # a SafeLoader that knows 1e-5
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        why = getattr(error, "problem", None) or "malformed"
        raise DataError(f"{at(path, mark.line + 1 if mark else None)}: not YAML: {why}; correct it") from error
    if not isinstance(node, yaml.MappingNode):
        raise DataError(f"{path}: not a run file: one `field: value` a line is expected; correct it")
    lines: dict[str, int] = {}
    for key, _ in node.value:
        if key.value in lines:
            raise DataError(f"{at(path, key.start_mark.line + 1)}: {key.value}: given twice; remove one of them")
        lines[str(key.value)] = key.start_mark.line + 1
    return content, lines


@cache
def _yaml_loader() -> Any:
    """Return a safe loader to which ``1e-5`` is a number, as in YAML 1.2; to YAML 1.1 it is text."""
    import yaml

    class Loader(yaml.SafeLoader):
        pass

    Loader.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
    )
    return Loader


def _parse_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    """Read ``field=value`` arguments; those of ``trainer.`` are gathered under its key."""
    import yaml

    found: dict[str, Any] = {}
    for override in overrides:
        name, equals, text = override.removeprefix("--").partition("=")
        if not equals or not name:
            raise UsageError(f"{override}: not an override: field=value is expected, such as seed=7")
        try:
            value = yaml.load(text, Loader=_yaml_loader())
        except yaml.YAMLError as error:
            raise UsageError(f"{override}: the value is not YAML; quote it") from error
        name = name.replace("-", "_")
        if name.startswith("trainer."):
            found.setdefault("trainer", {})[name.removeprefix("trainer.")] = value
        else:
            found[name] = value
    return found


def _field(found: Any) -> str:
    """Return the field that is wrong; where several do not go together, the one that the message starts with."""
    return str(found["loc"][0]) if found["loc"] else _message(found).partition(":")[0]


def _message(found: Any) -> str:
    return str(found["msg"]).removeprefix("Value error, ")


def _reason(found: Any, lines: Mapping[str, int], path: str | Path | None, given: Mapping[str, Any]) -> str:
    """Say where a value stands and what is wrong with it."""
    name = _field(found)
    where = "command line" if name in given or path is None else at(path, lines.get(name))
    if found["type"] == "missing":
        return f"{where}: {name}: missing; add it"
    if found["type"] == "extra_forbidden":
        return f"{where}: {name}: no such field; remove it, or see `train --help` for the fields of the phase"
    if not found["loc"]:
        return f"{where}: {_message(found)}"
    return f"{where}: {'.'.join(str(part) for part in found['loc'])}: {_message(found)}; correct it"
