"""The columns of a TSV file: those that its first line names, or else id and text."""

from __future__ import annotations

import csv
import logging
import re
from pathlib import Path
from typing import Any

from pyserini_llm_sparse.files.records import RecordProblem

_logger = logging.getLogger(__name__)

ID_NAMES = frozenset(
    {
        "id",
        "_id",
        "docid",
        "doc_id",
        "did",
        "pid",
        "passage_id",
        "document_id",
        "qid",
        "query_id",
        "queryid",
        "topic_id",
    }
)
_NAME = re.compile(r"[^\W\d]\w*")


def names_columns(fields: list[str]) -> bool:
    """Tell whether the fields of a first line name columns: an id's customary name, then other names.

    >>> names_columns(["id", "text", "title"]), names_columns(["query-id", "query"]), names_columns(["7", "text"])
    (True, True, False)
    """
    names = _normal(fields)
    return len(names) > 1 and names[0] in ID_NAMES and all(_NAME.fullmatch(name) for name in names)


class Columns:
    """The lines of one TSV file, taken apart under its header where it has one."""

    def __init__(self, path: Path) -> None:
        """Begin before the first line."""
        self._path = path
        self._names: list[str] | None = None
        self._is_first = True

    def entry(self, line: bytes) -> dict[str, Any] | tuple[str, str] | None:
        """Return a line's fields by the names of a header, or its id and what follows; None for the header itself.

        Under a header a field may stand in quotes, as in the CSV of spreadsheets. With one column beside the id, its
        name does not matter: it is the text.

        Raises:
            RecordProblem: The line is not UTF-8, has no tab, or does not have the header's columns.
        """
        text = decoded(line)
        first, self._is_first = self._is_first, False
        if first and names_columns(fields := text.split("\t")):
            names = _normal(fields)
            self._names = ["id", *(names[1:] if len(names) > 2 else ["text"])]
            _logger.warning(
                "%s: the first line names columns (%s) and is not taken for a record", self._path, ", ".join(names)
            )
            return None
        if self._names is None:
            identifier, tab, rest = text.partition("\t")
            if not tab:
                raise no_tab(identifier)
            return identifier, rest
        values = _quoted(text) if '"' in text else text.split("\t")
        if len(values) != len(self._names):
            raise RecordProblem(
                f"{len(values)} columns", f"the header names {len(self._names)}", "correct the line", values[0][:60]
            )
        return dict(zip(self._names, values, strict=True))


def decoded(line: bytes) -> str:
    """Return a line as text.

    Raises:
        RecordProblem: It is not UTF-8.
    """
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise not_utf8(error) from error


def not_utf8(error: UnicodeDecodeError) -> RecordProblem:
    """Return the problem of a line that is not UTF-8."""
    return RecordProblem(
        "invalid UTF-8",
        f"byte 0x{error.object[error.start]:02x} at position {error.start} of the line",
        "convert the file to UTF-8",
    )


def no_tab(line: str) -> RecordProblem:
    """Return the problem of a line that is not id, tab and text."""
    shown = line if len(line) <= 60 else line[:59] + "…"
    return RecordProblem("no tab in the line", f"it is not id<TAB>text: {shown!r}", "add the tab")


def _normal(fields: list[str]) -> list[str]:
    return [field.strip().strip('"').lstrip("#").strip().lower().replace("-", "_") for field in fields]


def _quoted(line: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter="\t", strict=True))
    except csv.Error as error:
        raise RecordProblem(
            "broken quotes", str(error), "double quotes within quotes, or leave out the outer"
        ) from error
