"""Topics of any form: TSV, JSONL, tables, a BEIR folder, ``irds:`` ids, and what the caller reads: Pyserini's names.

Of a TSV line the second column is the query, as for Pyserini; further ones are counted and told. A file without a
suffix, such as a pipe, is JSONL if it begins with ``{``, and TSV otherwise. CSV, Parquet and JSON arrays are read as
records of JSONL are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyserini_llm_sparse.errors import DataError, ResourceError
from pyserini_llm_sparse.files.columns import Columns
from pyserini_llm_sparse.files.entries import json_object, read_entries
from pyserini_llm_sparse.files.folders import TSV_SUFFIXES
from pyserini_llm_sparse.files.irds import IRDS, entry_text, irds_entries
from pyserini_llm_sparse.files.lines import COMPRESSIONS, bare_suffix, read_lines
from pyserini_llm_sparse.files.notes import Notes
from pyserini_llm_sparse.files.records import RecordProblem, checked_id, checked_text, record_id
from pyserini_llm_sparse.files.walk import is_file

PYSERINI = "pyserini:"  # before the path of topics that Pyserini is to read, in the format that it takes them for
ID_KEYS = ("id", "_id", "qid", "query_id")
TEXT_KEYS = ("text", "query", "title", "contents")


@dataclass(frozen=True, slots=True)
class Topic:
    """A query and its id."""

    id: str
    text: str


def read_topics(topics: str | Path, named: Callable[[str], Mapping[str, str]] | None = None) -> list[Topic]:
    """Return the topics of a file, a BEIR folder, ``irds:<dataset id>`` or a known name, in their order.

    A JSONL topic has its id under ``id``, ``_id``, ``qid`` or ``query_id``, and its text under the first of ``text``,
    ``query``, ``title`` and ``contents``.

    Args:
        topics: Where they are.
        named: Returns ``{id: text}`` for a name that is not a path, empty if it does not know it, and for `PYSERINI`
            and the path of a file in TREC's format, or in that of Pyserini's ``.json``.

    Raises:
        ResourceError: There are no such topics.
        DataError: A topic has no usable id or text, or an id occurs twice.
        PrerequisiteError: ir_datasets is needed and not installed.
    """
    path = Path(topics)
    if str(topics).startswith(IRDS):
        found = [(f"{topics}:{n}", topic) for n, topic in enumerate(_irds_topics(str(topics)), 1)]
    elif path.exists():
        found = list(_found_topics(topics_file(path), named))
    else:
        known = named(str(topics)) if named else None
        if not known:
            raise ResourceError(f"{topics}: no such topics: neither a file, a folder nor a known name; check the path")
        found = [(str(topics), topic) for topic in _named_topics(str(topics), known)]
    if not found:
        raise DataError(f"{topics}: no topics: the file holds no records; check the path")
    seen: set[str] = set()
    for where, topic in found:
        if topic.id in seen:
            raise DataError(
                f"{where}: duplicate id (id {topic.id!r}): a run file would hold two rankings under one id; rename or "
                "remove one"
            )
        seen.add(topic.id)
    return [topic for _, topic in found]


def topics_file(path: Path) -> Path:
    """Return the file that holds the topics of a path: itself, or the queries of a BEIR folder.

    Raises:
        ResourceError: The folder has none.
    """
    if is_file(path):
        return path
    for suffix in ("", *COMPRESSIONS):
        if (beir := path / f"queries.jsonl{suffix}").is_file():
            return beir
    raise ResourceError(f"{path}: no topics in this folder: it has no queries.jsonl; name the topics file")


def _found_topics(path: Path, named: Callable[[str], Mapping[str, str]] | None) -> Iterator[tuple[str, Topic]]:
    """Yield the topics of a file with their places, through Pyserini's readers where only they know the format."""
    if bare_suffix(path) != ".trec" and not (bare_suffix(path) == ".json" and _is_one_object(path)):
        yield from _file_topics(path)
    elif named is None:
        raise ResourceError(
            f"{path}: topics that Pyserini reads, and it was not asked; write them as TSV or JSON lines"
        )
    else:
        for topic in _named_topics(str(path), named(f"{PYSERINI}{path.absolute()}")):
            yield str(path), topic


def _is_one_object(path: Path) -> bool:
    """Tell whether a file is ``{id: {"title": query}}`` over one or more lines, rather than an object a line."""
    for _, line in read_lines(path):
        if line and not line.isspace():
            try:
                return all(isinstance(value, dict) for value in json_object(line).values())
            except RecordProblem:
                return line.lstrip().startswith(b"{")
    return False


def _file_topics(path: Path) -> Iterator[tuple[str, Topic]]:
    """Yield each topic with its place; the first bad one is an error, for a run without it would mislead."""
    is_tsv = bare_suffix(path) in TSV_SUFFIXES
    is_known = bool(bare_suffix(path))
    columns, notes = Columns(path), Notes(path)
    for number, entry in read_entries(path):
        try:
            if isinstance(entry, RecordProblem):
                raise entry
            if isinstance(entry, bytes):
                if not is_known:
                    is_tsv, is_known = not entry.lstrip().startswith(b"{"), True
                found = columns.entry(entry) if is_tsv else json_object(entry)
            else:
                found = entry
            if found is None:
                continue
            identifier, text = _parse_record(found, notes) if isinstance(found, dict) else _second(*found, notes)
        except RecordProblem as problem:
            raise problem.rejected(str(path), number).error() from problem
        if has_leading_zeros(identifier):
            notes.add("an id with leading zeros, which is kept; pyserini.search writes it as a number, without them")
        yield f"{path}:{number}", Topic(identifier, text)
    notes.tell()


def has_leading_zeros(identifier: str) -> bool:
    """Tell whether an id is one that Pyserini, to which ids of digits are numbers, writes otherwise in runs."""
    return identifier.isdigit() and len(identifier) > 1 and identifier.startswith("0")


def _second(identifier: str, rest: str, notes: Notes) -> tuple[str, str]:
    identifier, (text, *more) = checked_id(identifier), rest.rstrip().split("\t")
    if more:
        notes.add("further columns, which are not a part of the query: it is the second column, as for Pyserini")
    return identifier, checked_text(text.strip(), identifier)


def _parse_record(record: dict[str, Any], notes: Notes) -> tuple[str, str]:
    identifier = record_id(record, ID_KEYS)
    texts = {key: record[key].strip() for key in TEXT_KEYS if isinstance(record.get(key), str)}
    if texts:
        # Pyserini reads "id" and "title"; it reads no other of these records.
        chosen = "title" if "id" in record and texts.get("title") else next(iter(texts))
        if left_out := [key for key, text in texts.items() if text and text != texts[chosen]]:
            notes.add(f"{' and '.join(left_out)} beside {chosen}, which alone is the query")
        return identifier, checked_text(texts[chosen], identifier)
    raise RecordProblem(
        "no query text", f"none of {', '.join(TEXT_KEYS)} is a key with a string", "rename the field", identifier
    )


def _irds_topics(name: str) -> Iterator[Topic]:
    for number, query in enumerate(irds_entries(name, "queries"), start=1):
        try:
            yield Topic(str(query.query_id), entry_text(query, None, str(query.query_id)))
        except RecordProblem as problem:
            raise problem.rejected(name, number).error() from problem


def _named_topics(name: str, known: Mapping[str, str]) -> Iterator[Topic]:
    for identifier, text in known.items():
        try:
            yield Topic(checked_id(identifier), checked_text(text.strip(), identifier))
        except RecordProblem as problem:
            raise problem.rejected(name, 1).error() from problem
