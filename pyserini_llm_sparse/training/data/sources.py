"""Training examples and texts as streams, from files, directories, BEIR, ir_datasets and the hub.

A source of examples is one of:

* a file of JSON lines, tab-separated lines (``.tsv``, ``.txt``), CSV, Parquet or a JSON array, compressed or not;
  `source_formats` says what a line or a record may be;
* a directory in the BEIR layout, ``PATH`` for the judgements of its split ``train``, ``PATH#SPLIT`` for another;
* any other directory: each file in it but collection, queries and hidden files, in the order of their paths;
* ``hf:owner/name[:config][@split]``.

The form of a file is found by looking at its lines. Nothing is held but one line, the judgements of a BEIR split, and
the places of the texts that examples name by id.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pyserini_llm_sparse.errors import DataError, ResourceError, at
from pyserini_llm_sparse.files.corpus import read_corpus
from pyserini_llm_sparse.files.digests import file_sha256
from pyserini_llm_sparse.files.entries import Entry, json_object, read_entries, too_long
from pyserini_llm_sparse.files.fields import joined_fields
from pyserini_llm_sparse.files.folders import TSV_SUFFIXES, corpus_files, folder_files
from pyserini_llm_sparse.files.irds import IRDS
from pyserini_llm_sparse.files.lines import MAXIMUM_LINE, bare_suffix, open_bytes, read_lines
from pyserini_llm_sparse.files.records import RecordProblem, Rejected, excerpt
from pyserini_llm_sparse.files.walk import files_below, is_file
from pyserini_llm_sparse.training.data.examples import Example
from pyserini_llm_sparse.training.data.hub import HUB, hub_name, hub_revision, read_hub
from pyserini_llm_sparse.training.data.judgements import read_judged_examples
from pyserini_llm_sparse.training.data.source_files import beir_split, is_neighbour, parts
from pyserini_llm_sparse.training.data.source_formats import (
    example_of_fields,
    example_of_record,
    is_example,
    without_negatives,
)
from pyserini_llm_sparse.training.data.texts_by_id import COLLECTION_NAMES, QUERIES_NAMES, Neighbours, neighbour

_logger = logging.getLogger(__name__)

TEXT_KEYS = {"contents", "title", "text"}


def read_examples(source: str) -> Iterator[Example]:
    """Yield the training examples of a source, in a fixed order.

    Raises:
        ResourceError: There is no such source, or a file that it needs beside it is missing.
        DataError: A line is no training example; the message names the file, the line and what it says.
        PrerequisiteError: A package for this kind of source is not installed.
    """
    for part in parts(source):
        if part.startswith(HUB):
            yield from _hub_examples(part)
        elif (beir := beir_split(part)) is not None:
            yield from read_judged_examples(*beir)
        else:
            yield from _file_examples(Path(part))


def read_texts(source: str) -> Iterator[str]:
    """Yield the texts of a source for the adaptation of a language model.

    A source is a corpus (`files.corpus`; the ids of JSON records do not matter), a ``.txt`` file with a text a line,
    a directory of such files, a hub dataset, or anything that `read_examples` takes, whose positives are then the
    texts. Of a directory with a collection only that is read. Texts without content are left out and counted.

    Raises:
        LlmSparseError: As `read_examples`.
    """
    empty = 0
    for text in _texts(source):
        text = text.strip()
        empty += not text
        if text:
            yield text
    if empty:
        _logger.warning("%s: %d texts without content were left out", source, empty)


def source_fingerprints(sources: Sequence[str], digest: Callable[[Path], str] = file_sha256) -> list[dict[str, Any]]:
    """Say what was read, so that a result can name it.

    Args:
        sources: What `read_examples` and `read_texts` take.
        digest: Gives the SHA-256 of a file, such as `KnownDigests`.

    Returns:
        For each file of each source, collections beside it included, ``source``, ``name``, ``bytes`` and ``sha256``;
        for a hub dataset ``source`` and ``revision`` (None where the hub cannot be asked), for a local folder in its
        place the files.
    """
    found: list[dict[str, Any]] = []
    for source in sources:
        on_hub = source.startswith(HUB) and not Path(hub_name(source).name).is_dir()
        if on_hub:
            found.append({"source": source, "revision": hub_revision(source)})
        elif source.startswith(IRDS):
            found.append({"source": source})
        else:
            local = source.startswith(HUB)  # a folder that the library reads in its own way
            found += [
                {"source": source, "name": path.name, "bytes": path.stat().st_size, "sha256": digest(path)}
                for path in (files_below(Path(hub_name(source).name), hidden=False) if local else _files(source))
            ]
    return found


def _hub_examples(source: str) -> Iterator[Example]:
    with Neighbours(None, source) as neighbours:
        for number, row in read_hub(source):
            try:
                yield example_of_record(row, neighbours, source, number)
            except RecordProblem as problem:
                raise _bad_line(problem, source, number, str(row)) from problem


def _file_examples(path: Path, negatives: bool = True) -> Iterator[Example]:
    """Yield the examples of one file, with or without their negatives."""
    with Neighbours(path.parent, str(path)) as neighbours:
        yield from _line_examples(path, neighbours, negatives)


def _line_examples(path: Path, neighbours: Neighbours, negatives: bool = True) -> Iterator[Example]:
    is_tsv, by_id = bare_suffix(path) in TSV_SUFFIXES, None
    source = str(path)
    for number, entry in read_entries(path):
        try:
            if is_tsv and isinstance(entry, bytes):
                fields = _decoded(entry).split("\t")
                by_id = _are_ids(fields, path) if by_id is None else by_id
                if not negatives and len(fields) in (3, 5):
                    fields = fields[-3:-1]
                yield example_of_fields(fields, neighbours, by_id, source, number)
            else:
                yield example_of_record(_record(entry), neighbours, source, number)
        except RecordProblem as problem:
            raise _bad_line(problem, source, number, _shown(entry)) from problem


def _record(entry: Entry) -> dict[str, Any]:
    if isinstance(entry, RecordProblem):
        raise entry
    return entry if isinstance(entry, dict) else json_object(entry)


def _shown(entry: Entry) -> str:
    """Return the start of an entry, for a message."""
    if isinstance(entry, bytes):
        return entry[:400].decode("utf-8", "replace")
    return "" if isinstance(entry, RecordProblem) else str(entry)[:400]


def _bad_line(problem: RecordProblem, source: str, number: int, line: str) -> DataError:
    """Return the error for a line, with the start of the line."""
    shown = f": {excerpt(line)!r}" if line and problem.what != "broken JSON" else ""
    return DataError(f"{at(source, number)}: {problem.what}: {problem.why}{shown}; {problem.remedy}")


def _decoded(line: bytes) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RecordProblem("invalid UTF-8", f"at byte {error.start}", "convert the file to UTF-8") from error


def _are_ids(fields: list[str], path: Path) -> bool:
    """Tell from its first line whether a tab-separated file holds ids: numbers, or words with a collection beside."""
    documents = fields[-3:] if len(fields) == 5 else fields
    if all(field.isdecimal() for field in documents):
        return True
    words = all(field and not any(character.isspace() for character in field) for field in documents)
    return words and all(neighbour(path.parent, names) for names in (COLLECTION_NAMES, QUERIES_NAMES))


def _texts(source: str) -> Iterator[str]:
    """Yield the texts of a source, with those that are empty."""
    if source.startswith(HUB):
        with Neighbours(None, source) as neighbours:
            for number, row in read_hub(source):
                yield from _texts_of_record(row, neighbours, source, number, str(row))
    elif source.startswith(IRDS):
        yield from _corpus_texts(source)
    elif "#" in source and beir_split(source) is not None:
        yield from (text for example in read_examples(source) for text in example.positives)
    elif Path(source).is_dir():
        collection = neighbour(Path(source), COLLECTION_NAMES)
        for path in [collection] if collection else folder_files(Path(source)):
            if collection or not is_neighbour(path):
                yield from _file_texts(path)
    elif is_file(Path(source)):
        yield from _file_texts(Path(source))
    else:
        raise ResourceError(f"{source}: no such file or directory; give a path, {IRDS}DATASET or {HUB}owner/name")


def _file_texts(path: Path) -> Iterator[str]:
    suffix = bare_suffix(path)
    if suffix == ".txt":
        for number, line in read_lines(path):
            if line is None:
                raise too_long().rejected(str(path), number).error()
            yield line.decode("utf-8", "replace")
    elif suffix in TSV_SUFFIXES:
        if _has_examples(path):
            yield from (text for example in _file_examples(path, negatives=False) for text in example.positives)
        else:
            yield from _corpus_texts(str(path))
    else:
        with Neighbours(path.parent, str(path)) as neighbours:
            for number, entry in read_entries(path):
                try:
                    record = _record(entry)
                except RecordProblem as problem:
                    raise _bad_line(problem, str(path), number, _shown(entry)) from problem
                yield from _texts_of_record(record, neighbours, str(path), number, _shown(entry))


def _has_examples(path: Path) -> bool:
    """Tell whether a tab-separated file holds triples of texts or ids rather than ``id<TAB>text``."""
    with open_bytes(path) as stream:
        fields = stream.readline(MAXIMUM_LINE).decode("utf-8", "replace").rstrip("\r\n").split("\t")
    return len(fields) in (3, 5) and (" " in fields[-3] or _are_ids(fields, path))


def _corpus_texts(corpus: str) -> Iterator[str]:
    for record in read_corpus(corpus):
        if not isinstance(record, Rejected):
            yield record.text
        elif record.is_without_text:
            yield ""
        else:
            raise record.error()


def _texts_of_record(
    record: dict[str, Any], neighbours: Neighbours, source: str, number: int, shown: str
) -> Iterator[str]:
    """Yield the positives of an example, or the text of a document, which needs no id here."""
    try:
        if is_example(record):
            yield from example_of_record(without_negatives(record), neighbours, source, number).positives
        else:
            if not TEXT_KEYS & record.keys():
                raise RecordProblem(
                    f"no field {' or '.join(sorted(TEXT_KEYS))}", f"the record has {', '.join(map(str, record))}",
                    "write its text under one of these names",
                )  # fmt: skip
            yield joined_fields(record, None, str(record.get("_id", "")))
    except RecordProblem as problem:
        raise _bad_line(problem, source, number, shown) from problem


def _files(source: str) -> list[Path]:
    """Return all files that reading a source may open."""
    if (beir := beir_split(source)) is not None:
        folder, split = beir
        beside = [neighbour(folder, names) for names in (COLLECTION_NAMES, QUERIES_NAMES)]
        judged = neighbour(folder / "qrels", (f"{split}.tsv",))
        return [path for path in (*beside, judged) if path is not None]
    path = Path(source)
    if path.is_dir():
        return folder_files(path)
    if not is_file(path):
        return corpus_files(path)  # says that there is none
    beside = [neighbour(path.parent, names) for names in (COLLECTION_NAMES, QUERIES_NAMES)]
    return [path, *(found for found in beside if found is not None and found != path and _refers(path))]


def _refers(path: Path) -> bool:
    """Tell whether a file of examples names texts by id, by reading the first of them without any to look up."""
    try:
        next(_line_examples(path, Neighbours(None, str(path))), None)
    except ResourceError:
        return True
    except DataError:
        return False
    return False
