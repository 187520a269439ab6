"""Texts that training examples name by id: a collection or queries file, read by its lines' places and not held.

Of each text 24 bytes are kept, its place in the file and a 64-bit digest of its id; the text is read from the disk when
it is asked for (MS MARCO's 8.8 million passages: 210 MB). A compressed file is unpacked once, into a temporary file
that has no name and ends with the process.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from array import array
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from pyserini_llm_sparse.errors import DataError, ResourceError, at
from pyserini_llm_sparse.files.entries import json_object
from pyserini_llm_sparse.files.fields import joined_fields
from pyserini_llm_sparse.files.folders import TSV_SUFFIXES
from pyserini_llm_sparse.files.lines import COMPRESSIONS, bare_suffix, read_lines
from pyserini_llm_sparse.files.records import RecordProblem, excerpt, record_id

ID_KEYS = ("id", "_id", "docid", "doc_id", "pid", "qid", "query_id")
COLLECTION_NAMES = (
    "collection.tsv",
    "corpus.jsonl",
    "collection.jsonl",
    "corpus.tsv",
    "passages.jsonl",
    "passages.tsv",
)
QUERIES_NAMES = ("queries.tsv", "queries.train.tsv", "queries.jsonl", "queries.train.jsonl")


class TextsById:
    """The texts of one file, found by their ids.

    Lines are ``id<TAB>text``, or JSON objects with an id and ``contents``, or ``title`` and ``text``, or ``query``.
    """

    def __init__(self, path: Path) -> None:
        """Go through the file once.

        Raises:
            ResourceError: The file cannot be read.
            DataError: A line has no id, or two lines have the same.
        """
        self.path = path
        self._is_tsv = bare_suffix(path) in TSV_SUFFIXES
        self._file: IO[bytes] = _plain(path)
        try:
            self._digests, self._starts, self._lengths = self._places()
        except DataError:
            self.close()
            raise

    def close(self) -> None:
        """Close the file; no text can be asked for any more."""
        self._file.close()

    def _places(self) -> tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.uint64]]:
        """Return digests of all ids in ascending order, with where each line starts and how long it is."""
        digests, starts, lengths = array("Q"), array("Q"), array("Q")
        for number, start, line in self._lines():
            if not line.strip():
                continue
            try:
                identifier = self._id(line)
            except RecordProblem as problem:
                raise problem.rejected(str(self.path), number).error() from problem
            digests.append(_digest(identifier))
            starts.append(start)
            lengths.append(len(line))
        found = np.frombuffer(digests, dtype=np.uint64) if digests else np.zeros(0, np.uint64)
        order = np.argsort(found, kind="stable")
        again = np.flatnonzero(found[order][1:] == found[order][:-1])
        if len(again):
            place = int(order[again[0]])
            twice = self._id(self._read(starts[place], lengths[place]))
            raise DataError(
                f"{self.path}: duplicate id (id {twice!r}): it does not say which text is meant; rename or remove one"
            )
        return found[order], np.asarray(starts, np.uint64)[order], np.asarray(lengths, np.uint64)[order]

    def __len__(self) -> int:
        return len(self._digests)

    def text(self, identifier: str) -> str:
        """Return the text with an id.

        Raises:
            RecordProblem: There is none.
        """
        digest = np.uint64(_digest(identifier))
        place = int(np.searchsorted(self._digests, digest))
        if place == len(self._digests) or self._digests[place] != digest:
            raise RecordProblem(
                "unknown id", f"{self.path} has no {identifier!r}", "use the file that the ids are from", identifier
            )
        line = self._read(int(self._starts[place]), int(self._lengths[place]))
        if self._is_tsv:
            return line.decode("utf-8", "replace").partition("\t")[2].strip()
        record = json_object(line)
        if "query" in record and not {"text", "title", "contents"} & record.keys():
            return str(record["query"]).strip()
        return joined_fields(record, None, identifier)

    def _id(self, line: bytes) -> str:
        if not self._is_tsv:
            return record_id(json_object(line), ID_KEYS)
        identifier, tab, _ = line.partition(b"\t")
        if not tab:
            shown = excerpt(line[:400].decode("utf-8", "replace"))
            raise RecordProblem("no tab in the line", f"it is not id<TAB>text: {shown!r}", "add the tab")
        return identifier.decode("utf-8", "replace")

    def _read(self, start: int, length: int) -> bytes:
        return os.pread(self._file.fileno(), length, start)

    def _lines(self) -> Iterator[tuple[int, int, bytes]]:
        """Yield number, place and content of each line, without its end."""
        self._file.seek(0)
        start = 0
        for number, line in enumerate(self._file, start=1):
            mark = b"\xef\xbb\xbf" if number == 1 and line.startswith(b"\xef\xbb\xbf") else b""
            yield number, start + len(mark), line[len(mark) :].rstrip(b"\r\n")
            start += len(line)


class Neighbours:
    """The collection and the queries that lie in the folder of a file of ids; opened when the first id is met."""

    def __init__(self, folder: Path | None, name: str) -> None:
        """Remember where to look.

        Args:
            folder: The folder; None if the source is not on disk.
            name: The source's name, for messages.
        """
        self.folder, self.name = folder, name
        self._opened: dict[tuple[str, ...], TextsById] = {}

    def __enter__(self) -> Neighbours:
        return self

    def __exit__(self, *_: object) -> None:
        for texts in self._opened.values():
            texts.close()
        self._opened.clear()

    def document(self, identifier: Any) -> str:
        """Return a document's text.

        Raises:
            RecordProblem: The collection has no such id.
            ResourceError: There is no collection.
        """
        return self._texts(COLLECTION_NAMES, "collection").text(str(identifier))

    def query(self, identifier: Any) -> str:
        """Return a query's text; raises as `document`."""
        return self._texts(QUERIES_NAMES, "queries").text(str(identifier))

    def _texts(self, names: tuple[str, ...], what: str) -> TextsById:
        if names not in self._opened:
            path = neighbour(self.folder, names) if self.folder else None
            if path is None:
                raise ResourceError(
                    f"{self.name}: no {what} for its ids: the texts must lie in the same folder; put there one of "
                    f"{', '.join(names)} (or with {' or '.join(COMPRESSIONS)})"
                )
            self._opened[names] = TextsById(path)
        return self._opened[names]


def neighbour(folder: Path, names: tuple[str, ...]) -> Path | None:
    """Return the first of some files that a folder has, compressed or not."""
    for name in names:
        for suffix in ("", *COMPRESSIONS):
            if (path := folder / f"{name}{suffix}").is_file():
                return path
    return None


def _digest(identifier: str) -> int:
    return int.from_bytes(hashlib.blake2b(identifier.encode(), digest_size=8).digest(), "little")


def _plain(path: Path) -> IO[bytes]:
    """Open a file whose bytes are its lines; of a compressed one, an unpacked copy."""
    try:
        if path.suffix.lower() not in COMPRESSIONS:
            return path.open("rb")
        with ExitStack() as undo:
            copy = undo.enter_context(tempfile.TemporaryFile(prefix="pyserini-llm-sparse-"))
            for number, line in read_lines(path):
                if line is None:
                    raise DataError(f"{at(path, number)}: line too long: it does not fit in memory; split or remove it")
                copy.write(line + b"\n")
            copy.flush()
            undo.pop_all()
        return copy
    except OSError as error:
        raise ResourceError(f"{path}: cannot be read: {error.strerror or error}; check path and disk space") from error
