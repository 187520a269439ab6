"""The documents of a corpus in order and in bounded memory: JSONL, TSV, BEIR folders and ir_datasets.

A corpus is named by a file, a folder, or ``irds:<dataset id>``:

* JSONL (``.jsonl``, ``.json``, any other suffix of a single file): an object a line with ``id``, ``_id`` or ``docid``.
* TSV (``.tsv``, ``.txt``): id, a tab, text; further tabs belong to the text. If the first line names columns, a line
  is a record with these fields.
* A folder with ``corpus.jsonl`` is in the BEIR layout, and only that file is read. Of another folder, every file is
  read, in the order of the paths; hidden files are left out, and a file with an unknown suffix is an error.
* CSV under a header, Parquet, and a JSON array of such objects.
* Each may be compressed (``.gz``, ``.zst``, ``.bz2``, ``.xz``). Blank lines are not records.

Fields are stripped and joined by one space, as Pyserini's SPLADE encoder joins title and text. By default the text is
the field ``contents`` or, where there is none, ``title`` and ``text``; `fields` says what else a record may hold. An
ir_datasets document is what its type takes for its text.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pyserini_llm_sparse.files.columns import Columns
from pyserini_llm_sparse.files.entries import Entry, json_object, read_entries
from pyserini_llm_sparse.files.fields import joined_fields, note_left_out
from pyserini_llm_sparse.files.folders import TSV_SUFFIXES, corpus_files, tell_left_out
from pyserini_llm_sparse.files.irds import IRDS, count_irds, entry_text, irds_entries
from pyserini_llm_sparse.files.lines import bare_suffix, read_lines
from pyserini_llm_sparse.files.notes import Notes
from pyserini_llm_sparse.files.records import Document, Record, RecordProblem, checked_id, checked_text, record_id
from pyserini_llm_sparse.files.tables import is_table
from pyserini_llm_sparse.files.walk import is_file

_logger = logging.getLogger(__name__)


def read_corpus(corpus: str | Path, fields: Sequence[str] | None = None) -> Iterator[Record]:
    """Yield each record of a corpus, in a fixed order, as a document or as rejected.

    Args:
        corpus: A file, a folder or ``irds:<dataset id>``.
        fields: Names of the JSON fields that make the text; None for ``contents``, else ``title`` and ``text``.

    Raises:
        ResourceError: The corpus does not exist or cannot be read.
        DataError: A folder holds something else, or a compressed file is damaged.
        PrerequisiteError: A package for this kind of corpus is not installed.
    """
    if str(corpus).startswith(IRDS):
        yield from _read_irds(str(corpus), fields)
        return
    seen: set[str] = set()
    notes = Notes(corpus)
    for path in corpus_files(corpus):
        columns = Columns(path) if bare_suffix(path) in TSV_SUFFIXES else None
        for number, entry in read_entries(path):
            try:
                found = _parse(entry, columns, fields, seen, notes)
            except RecordProblem as problem:
                yield problem.rejected(str(path), number)
            else:
                if found:
                    yield Document(*found, str(path), number)
    notes.tell()
    if Path(corpus).is_dir():
        tell_left_out(Path(corpus))
    never = [name for name in fields or () if name not in seen]
    if never and len(never) < len(fields or ()):  # if all are missing, each record was rejected for it
        _logger.warning("%s: no record has a field %s: the vectors are without it", corpus, " or ".join(never))


def count_records(corpus: str | Path) -> int | None:
    """Return how many records a corpus has, by reading but not parsing it; None if it cannot be told.

    Raises:
        LlmSparseError: As `read_corpus`.
    """
    if str(corpus).startswith(IRDS):
        return count_irds(str(corpus))
    if is_file(Path(corpus)) and not Path(corpus).is_file():
        return None  # a pipe is read once
    if any(is_table(path) for path in corpus_files(corpus)):
        return None
    return sum(
        line is None or not (not line or line.isspace())
        for path in corpus_files(corpus)
        for _, line in read_lines(path)
    )


def _parse(
    entry: Entry, columns: Columns | None, fields: Sequence[str] | None, seen: set[str], notes: Notes
) -> tuple[str, str] | None:
    """Return id and text of an entry; None for a header."""
    if isinstance(entry, RecordProblem):
        raise entry
    if isinstance(entry, dict):
        return _parse_record(entry, fields, seen, notes)
    return _parse_tsv(entry, columns, fields, seen, notes) if columns else parse_json(entry, fields, seen, notes)


def parse_json(
    line: bytes, fields: Sequence[str] | None = None, seen: set[str] | None = None, notes: Notes | None = None
) -> tuple[str, str]:
    """Return id and text of a JSON line; add the names of its keys to those seen, and note what is left out of it.

    Raises:
        RecordProblem: The line is not an object, or its id or its text cannot be used.
    """
    return _parse_record(json_object(line), fields, seen, notes)


def _parse_record(
    record: dict[str, Any], fields: Sequence[str] | None, seen: set[str] | None, notes: Notes | None
) -> tuple[str, str]:
    if fields and seen is not None:
        seen.update(record)
    identifier = record_id(record)
    text = joined_fields(record, fields, identifier)
    if notes is not None and not fields:
        note_left_out(record, text, notes)
    return identifier, checked_text(text, identifier)


def _parse_tsv(
    line: bytes, columns: Columns, fields: Sequence[str] | None, seen: set[str], notes: Notes
) -> tuple[str, str] | None:
    """Return id and text of a TSV line; None for a header."""
    entry = columns.entry(line)
    if isinstance(entry, dict):
        return _parse_record(entry, fields, seen, notes)
    if entry is None:
        return None
    identifier, text = checked_id(entry[0]), entry[1].strip()
    if fields:
        seen.update(fields)
        notes.add("no names of columns, so that --fields does not choose among them: all after the id is the text")
    elif "\t" in text:
        notes.add("further tabs, which are a part of the text")
    return identifier, checked_text(text, identifier)


def _read_irds(corpus: str, fields: Sequence[str] | None) -> Iterator[Record]:
    """Yield the documents of an ir_datasets dataset; the line is the document's number."""
    for number, entry in enumerate(irds_entries(corpus, "docs"), start=1):
        try:
            identifier = checked_id(getattr(entry, "doc_id", None), "doc_id")
            text = entry_text(entry, fields, identifier)
            yield Document(identifier, checked_text(text, identifier), corpus, number)
        except RecordProblem as problem:
            yield problem.rejected(corpus, number)
