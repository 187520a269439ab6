"""The entries of a file of records: lines, or the records of a table; and lines as JSON objects."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from pyserini_llm_sparse.errors import DataError
from pyserini_llm_sparse.files.columns import not_utf8
from pyserini_llm_sparse.files.folders import SUFFIXES
from pyserini_llm_sparse.files.lines import COMPRESSIONS, MAXIMUM_LINE, bare_suffix, read_lines
from pyserini_llm_sparse.files.records import RecordProblem, excerpt
from pyserini_llm_sparse.files.tables import is_table, read_table

Entry = bytes | dict[str, Any] | RecordProblem
"""A line that is not blank, a record of a table, or what is wrong with either."""


def read_entries(path: Path) -> Iterator[tuple[int, Entry]]:
    """Yield the number, from 1, and the content of each entry: of a line, or of a record in CSV, Parquet or an array.

    A file whose suffix says nothing, or nothing that is known here, holds JSON lines.

    Raises:
        ResourceError: The file cannot be read.
        DataError: It is damaged, of another format than its suffix says, or of one that is not read.
        PrerequisiteError: A package for its format is not installed.
    """
    if is_table(path):
        for number, record in read_table(path):
            yield number, record if isinstance(record, dict) else not_an_object(record)
        return
    is_known = bare_suffix(path) in ("", *SUFFIXES)
    for number, line in read_lines(path):
        if line is None:
            yield number, too_long()
        elif line and not line.isspace():
            if not is_known and not line.lstrip().startswith(b"{"):
                raise DataError(
                    f"{path}: not a file of records: {bare_suffix(path)} is not read, and no JSON object stands in its "
                    f"line {number}; convert it to one of {', '.join(SUFFIXES)} (with {' or '.join(COMPRESSIONS)})"
                )
            is_known = True
            yield number, line


def too_long() -> RecordProblem:
    """Return the problem of a line that is longer than `MAXIMUM_LINE`."""
    return RecordProblem(
        f"line longer than {MAXIMUM_LINE >> 20} MiB", "it would not fit in bounded memory", "split or remove it"
    )


def json_object(line: bytes) -> dict[str, Any]:
    """Parse a line that must be a JSON object.

    Raises:
        RecordProblem: It is not UTF-8, not JSON, or another kind of value.
    """
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError as strict:
        try:
            # orjson also refuses lone surrogates and NaN, which matter only in the fields that are used.
            record = json.loads(line.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise not_utf8(error) from error
        except (ValueError, RecursionError):
            shown = excerpt(line[:400].decode("utf-8", "replace"))
            raise RecordProblem(
                "broken JSON", f"{strict.msg} at column {strict.colno}: {shown!r}", "correct or remove the line"
            ) from strict
    if not isinstance(record, dict):
        raise not_an_object(record)
    return record


def not_an_object(value: Any) -> RecordProblem:
    """Return the problem of a JSON value that is no record."""
    return RecordProblem(
        "not a JSON object", f"the line is a {type(value).__name__}", "write one object with an id a line"
    )
