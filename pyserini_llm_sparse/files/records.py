"""The records of a corpus or topics file as readers yield them: a document, or why it cannot be one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pyserini_llm_sparse.errors import DataError, at

ID_KEYS = ("id", "_id", "docid")
MAXIMUM_EXCERPT = 60
MAXIMUM_ID = 32_766  # bytes: the longest term that Lucene keeps
_PARTS_OF_DOCUMENTS = ("pid", "passage_id", "segment_id", "chunk_id")
_WITHOUT_TEXT = "empty text"


@dataclass(frozen=True, slots=True)
class Document:
    """A text with an id, and the file and line that it came from (lines count from 1)."""

    id: str
    text: str
    source: str
    line: int


@dataclass(frozen=True, slots=True)
class Rejected:
    """A record that cannot be used, with what is wrong, why that matters and what to do about it."""

    source: str
    line: int
    what: str
    why: str
    remedy: str
    id: str | None = None

    @property
    def is_without_text(self) -> bool:
        """Whether nothing is wrong but that there is no text, which some readers may leave out."""
        return self.what == _WITHOUT_TEXT

    def message(self) -> str:
        """Return the one-line message ``path:line: what: why; remedy``."""
        named = f" (id {self.id!r})" if self.id is not None else ""
        return f"{at(self.source, self.line)}: {self.what}{named}: {self.why}; {self.remedy}"

    def error(self) -> DataError:
        """Return the exception for a run that does not skip bad records."""
        return DataError(self.message())

    def report(self) -> dict[str, str | int | None]:
        """Return the record's entry in a report of skipped records."""
        return {
            "source": self.source,
            "line": self.line,
            "id": self.id,
            "what": self.what,
            "why": self.why,
            "remedy": self.remedy,
        }


Record = Document | Rejected


def tells_of_no_text(report: Mapping[str, Any]) -> bool:
    """Tell whether an entry in a report of skipped records is that of one without text."""
    return report.get("what") == _WITHOUT_TEXT


class RecordProblem(Exception):
    """Raised while one record is taken apart; the reader turns it into a `Rejected` with file and line."""

    def __init__(self, what: str, why: str, remedy: str, record_id: str | None = None) -> None:
        super().__init__(what)
        self.what, self.why, self.remedy, self.record_id = what, why, remedy, record_id

    def rejected(self, source: str, line: int) -> Rejected:
        """Return the problem as a record with its place."""
        return Rejected(source, line, self.what, self.why, self.remedy, self.record_id)


def record_id(record: dict[str, Any], keys: Sequence[str] = ID_KEYS) -> str:
    """Return the id of a JSON record: the first of the keys that it has, checked.

    Raises:
        RecordProblem: There is none, or it is not fit to be a document id.
    """
    for key in keys:
        if key in record:
            finer = next((name for name in _PARTS_OF_DOCUMENTS if name in record and name not in keys), None)
            if finer and key == "docid":
                raise RecordProblem(
                    f"both {key} and {finer}", "parts of one document would share its id", f"rename {finer} to id"
                )
            return checked_id(record[key], key)
    raise RecordProblem(
        "missing id", f"none of {', '.join(keys)} is a key of the record", "add one, or leave the record out"
    )


def checked_id(value: Any, key: str = "id") -> str:
    """Return an id as text; whole numbers are accepted and written in decimal.

    Raises:
        RecordProblem: It is of another type, is empty, or holds characters that a run file cannot hold.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        kind = "null" if value is None else type(value).__name__
        raise RecordProblem("unusable id", f"{key} is {kind}, not a string", "write it as a string")
    if not value:
        raise RecordProblem("missing id", f"{key} is an empty string", "give the record an id")
    if has_surrogate(value):
        raise RecordProblem("unusable id", f"{key} holds a lone surrogate", "use well-formed Unicode", ascii(value))
    if any(character.isspace() or not (character.isprintable()) for character in value):
        raise RecordProblem(
            "unusable id",
            f"{key} holds white space or a control character, at which run files are split",
            "replace it, for example by '_'",
            excerpt(value),
        )
    if len(value) > MAXIMUM_ID // 4 and len(value.encode()) > MAXIMUM_ID:
        raise RecordProblem(
            "unusable id", f"{key} is longer than Lucene's limit of {MAXIMUM_ID:,} bytes", "shorten it", excerpt(value)
        )
    return value


def checked_text(text: str, identifier: str | None = None) -> str:
    """Return a text if it can be encoded and written.

    Raises:
        RecordProblem: It is empty or only white space, holds NUL, or is not well-formed Unicode.
    """
    if not text or text.isspace():
        raise RecordProblem(_WITHOUT_TEXT, "Lucene drops a document without terms", "remove or fill it", identifier)
    if "\x00" in text:
        raise RecordProblem(
            "NUL character in the text", "it is binary or wrongly decoded data", "clean the text", identifier
        )
    if has_surrogate(text):
        raise RecordProblem(
            "lone surrogate in the text",
            "it is not Unicode and cannot be written as UTF-8",
            "clean the text",
            identifier,
        )
    return text


def has_surrogate(text: str) -> bool:
    """Tell whether a text holds half of a surrogate pair, which UTF-8 cannot express."""
    if text.isascii():
        return False
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False


def excerpt(text: str) -> str:
    """Return the start of a text, short enough for a message."""
    return text if len(text) <= MAXIMUM_EXCERPT else text[: MAXIMUM_EXCERPT - 1] + "…"
