"""Files of settings in YAML and JSON: their content, the line of each setting, and their mistakes in words."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pyserini_llm_sparse.errors import DataError, ResourceError, at
from pyserini_llm_sparse.files.records import excerpt

if TYPE_CHECKING:
    from pydantic import ValidationError

MAXIMUM_SETTINGS = 100_000  # of a file, those that aliases stand for counted each time
MOST_MISTAKES = 4  # that a message names
Place = tuple[str | int, ...]
"""Where a setting stands: the keys, and in lists the numbers, that lead to it."""


def read_settings(path: Path, kind: str) -> tuple[dict[str, Any], dict[Place, int]]:
    """Return a YAML file's mapping and the line of each setting in it.

    Args:
        path: The file.
        kind: What it is, for messages, such as ``run file``.

    Raises:
        ResourceError: The file cannot be read.
        DataError: It is no YAML, no mapping, a key is given twice, or there are more than `MAXIMUM_SETTINGS`.
    """
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ResourceError(f"{path}: cannot read the {kind}: {error.strerror}; check the path") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not a {kind}: not UTF-8 ({error.reason}); save it as UTF-8") from error
    lines: dict[Place, int] = {}
    try:
        loader = _loader()(text)
        node = loader.get_single_node()
        if not isinstance(node, yaml.MappingNode):
            raise DataError(f"{path}: not a {kind}: one `field: value` a line is expected; correct it")
        _find_lines(
            node, (), path, lines
        )  # before anything is made of it: aliases can stand for any number of settings
        return loader.construct_document(node), lines
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        why = getattr(error, "problem", None) or "malformed"
        raise DataError(f"{at(path, mark.line + 1 if mark else None)}: not YAML: {why}; correct it") from error
    except RecursionError as error:
        raise DataError(
            f"{path}: not a {kind}: an alias is part of itself, or brackets are nested too deeply; correct it"
        ) from error


def read_value(text: str) -> Any:
    """Return a value as it would be read in such a file.

    Raises:
        ValueError: It is not YAML.
    """
    import yaml

    try:
        return yaml.load(text, Loader=_loader())
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(text) from error


class Mistake(NamedTuple):
    """A setting that does not pass a check.

    Attributes:
        field: The first key that leads to it.
        line: Its line, or that of the closest setting above it that is written down; None if there is none.
        reason: ``field: what is wrong; remedy``.
    """

    field: str
    line: int | None
    reason: str


def mistakes(
    error: ValidationError, lines: Mapping[Place, int], if_needed: str = "or correct its name"
) -> list[Mistake]:
    """Return what pydantic found wrong with settings, in the order of their lines.

    Args:
        error: What it raised. A check of several fields names the one that it is about first: ``a.b: why; remedy``.
        lines: The line of each setting.
        if_needed: What to do with a field that does not exist, if not to remove it.
    """
    found = []
    for one in error.errors():
        message = str(one["msg"]).removeprefix("Value error, ")
        place: Place = one["loc"] or tuple(message.partition(":")[0].split("."))
        known: Place = ()
        for part in place:  # pydantic adds names of its own, such as the kind of a system
            if (*known, part) in lines:
                known = (*known, part)
        name = ".".join(map(str, known or place))
        if one["type"] == "missing":
            reason = f"{'.'.join(map(str, (*known, place[-1])))}: missing; add it"
        elif one["type"] == "extra_forbidden":
            reason = f"{name}: no such field; remove it, {if_needed}"
        else:
            reason = message if not one["loc"] else f"{name}: {message}"
            reason += "" if ";" in message else "; correct it"
        found.append(Mistake(str(place[0]), lines.get(known), reason))
    return sorted(found, key=lambda mistake: mistake.line or 0)


def listed(found: Sequence[str]) -> str:
    """Return mistakes as one line: `MOST_MISTAKES` of them, and how many more there are."""
    more = len(found) - MOST_MISTAKES
    shown = "; ".join(found[:MOST_MISTAKES])
    return shown if more <= 0 else f"{shown}; and {more} more {'mistake' if more == 1 else 'mistakes'}"


def _find_lines(node: Any, place: Place, path: Path, lines: dict[Place, int]) -> None:
    import yaml

    parts: list[tuple[str | int, Any, Any]]
    if isinstance(node, yaml.MappingNode):
        parts = [(str(key.value), key, value) for key, value in node.value]
    elif isinstance(node, yaml.SequenceNode):
        parts = [(number, value, value) for number, value in enumerate(node.value)]
    else:
        return
    for name, key, value in parts:
        line, own = key.start_mark.line + 1, (*place, name)
        if own in lines:
            raise DataError(f"{at(path, line)}: {name}: given twice; remove one of them")
        if len(lines) == MAXIMUM_SETTINGS:
            raise DataError(
                f"{at(path, line)}: too many settings: aliases (*) make more than {MAXIMUM_SETTINGS:,} of them; write "
                "out those that are meant"
            )
        lines[own] = line
        _find_lines(value, own, path, lines)


@cache
def _loader() -> Any:
    """Return a safe loader to which ``1e-5`` is a number, as in YAML 1.2; to YAML 1.1 it is text.

    What looks like a number or a date and is none is a `YAMLError`, too.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        def construct_object(self, node: Any, deep: bool = False) -> Any:
            try:
                return super().construct_object(node, deep)
            except (
                ValueError,
                ArithmeticError,
                LookupError,
                AttributeError,
            ) as error:  # PyYAML checks by patterns only
                why = f"{excerpt(ascii(node.value))} cannot be read as {node.tag.rpartition(':')[2]}"
                raise yaml.constructor.ConstructorError(None, None, why, node.start_mark) from error

    Loader.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
    )
    return Loader


def read_json(path: Path) -> dict[str, Any] | None:
    """Return a file's JSON object, None if there is no such file.

    Raises:
        DataError: The file is not a JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, OSError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read as JSON: {error}; restore the file") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: not a JSON object; restore the file")
    return content
