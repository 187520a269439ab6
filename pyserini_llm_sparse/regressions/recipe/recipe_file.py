"""Reads a regression recipe from its YAML file, naming the line of each mistake."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pyserini_llm_sparse.errors import DataError, at
from pyserini_llm_sparse.files.settings import Place, read_settings
from pyserini_llm_sparse.regressions.recipe.fields import Recipe


def load_recipe(path: str | Path) -> Recipe:
    """Read and check a recipe.

    Raises:
        ResourceError: The file cannot be read.
        DataError: It is not YAML, or a field is unknown or has an impossible value; all such lines are named.
    """
    path = Path(path)
    content, lines = read_settings(path, "recipe")
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        found = sorted((_problem(one, lines) for one in error.errors()), key=lambda problem: problem[0])
        raise DataError("; ".join(f"{at(path, line or None)}: {reason}" for line, reason in found)) from error


def _problem(found: Any, lines: Mapping[Place, int]) -> tuple[int, str]:
    """Return the line of a mistake, 0 if it is the file's, and what is wrong."""
    message = str(found["msg"]).removeprefix("Value error, ")
    # What concerns several fields says which one it is about.
    location = found["loc"] or tuple(message.partition(":")[0].split("."))
    place: Place = ()
    for part in location:  # pydantic adds names of its own, such as the kind of a system
        if (*place, part) in lines:
            place = (*place, part)
    name = ".".join(map(str, place))
    line = lines.get(place, 0)
    if found["type"] == "missing":
        return line, f"{'.'.join([*map(str, place), str(location[-1])])}: missing; add it"
    if found["type"] == "extra_forbidden":
        return line, f"{name}: no such field; remove it, or correct its name"
    return line, f"{message if not found['loc'] else f'{name}: {message}'}; correct it"
