"""The folder of vectors that an index is made of: its documents, each file compared with the manifest of the job."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from pyserini_llm_sparse.errors import DataError, ResourceError
from pyserini_llm_sparse.files.digests import file_sha256
from pyserini_llm_sparse.files.entries import Entry, read_entries
from pyserini_llm_sparse.files.lines import COMPRESSIONS, bare_suffix
from pyserini_llm_sparse.files.records import MAXIMUM_ID
from pyserini_llm_sparse.files.tables import TABLE_SUFFIXES, is_table
from pyserini_llm_sparse.files.walk import files_below
from pyserini_llm_sparse.indexing.vectors.state import JobState, Manifest
from pyserini_llm_sparse.modelling.names import SPEC_FILE
from pyserini_llm_sparse.modelling.spec import EncodingSpec, find_sidecar, names_of_folder

_AGAIN = "give the encode command again"


@dataclass
class EncodedVectors:
    """What was found in a folder of vectors.

    Attributes:
        documents: Their ids.
        empty: Those among them without a single term.
        postings: Pairs of a document and a term with an impact.
    """

    documents: set[str] = field(default_factory=set)
    empty: set[str] = field(default_factory=set)
    postings: int = 0

    def read(self, path: Path) -> tuple[int, str]:
        """Add the documents of a file. Returns the file's size and its SHA-256.

        As Anserini, this reads ``.gz`` and JSON arrays, too, and takes a file of another suffix for JSON lines.

        Raises:
            DataError: A line is broken, an id stands there twice, or is longer than Lucene takes; or the file is of a
                format that Anserini does not read.
        """
        if bare_suffix(path) in TABLE_SUFFIXES or path.suffix.lower() in COMPRESSIONS[1:]:
            raise DataError(
                f"{path}: not vectors that Lucene is given: Anserini does not read {path.suffix}; convert the file to "
                "JSON lines (.jsonl, .jsonl.gz)"
            )
        if path.suffix.lower() == ".gz" or is_table(path):
            for number, entry in read_entries(path):
                self._add(f"{path}:{number}", entry)
            return path.stat().st_size, file_sha256(path)
        size, digest = 0, hashlib.sha256()
        with path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                size += len(line)
                digest.update(line)
                if line.strip():
                    self._add(f"{path}:{number}", line)
        return size, digest.hexdigest()

    def _add(self, where: str, entry: Entry) -> None:
        try:
            record: Any = orjson.loads(entry) if isinstance(entry, bytes) else entry
            name, vector = str(record["id"]), record["vector"]
            self.postings += sum(impact >= 1 for impact in vector.values())
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{where}: not a vector: {error!r}; encode the corpus again") from error
        if len(name.encode()) > MAXIMUM_ID:  # Lucene refuses the document, and Anserini loses those after it as well
            raise DataError(
                f"{where}: id of {len(name.encode()):,} bytes, {name[:40]!r}...: Lucene takes at most {MAXIMUM_ID:,}; "
                "shorten it in the corpus and encode that again"
            )
        if name in self.documents:
            raise DataError(f"{where}: document {name!r} stands here twice; remove one of them")
        self.documents.add(name)
        if not vector:
            self.empty.add(name)


def read_vectors(folder: Path) -> EncodedVectors:
    """Read a folder of vectors, whoever wrote it; what `encode` wrote must be as its manifest says.

    Args:
        folder: JSONL files as ``pyserini.encode`` or ``encode`` writes them.

    Raises:
        ResourceError: The folder is not there or holds no file.
        DataError: The job is not finished, a file is missing, changed or not of the job, or a line is unfit.
    """
    jobs = [JobState(name) for name in names_of_folder(folder)]
    for job in jobs:
        if job.folder.exists():
            raise DataError(f"{folder}: is not finished: {job.folder.name} is still there; {_AGAIN}")
    found = [manifest for job in jobs if (manifest := job.manifest()) is not None]
    files = [path for path in files_below(folder) if not path.name.endswith(SPEC_FILE)]
    if not files and not found:
        raise ResourceError(f"{folder}: no vectors to index: the folder is empty or missing; encode a corpus first")
    vectors = EncodedVectors()
    if found:
        _require_named(folder, files, found[0])
        _require_spec(folder, found[0])
    recorded = {part.file: (part.bytes, part.sha256) for manifest in found[:1] for part in manifest.parts}
    for path in files:
        read = vectors.read(path)
        if found and read != recorded[path.name]:
            raise DataError(f"{path}: changed: its SHA-256 is not that of {_manifest_of(folder)}; {_AGAIN}")
    return vectors


def _require_named(folder: Path, files: list[Path], manifest: Manifest) -> None:
    """Refuse a folder without a file that the manifest names, or with one that it does not name."""
    there = {str(path.relative_to(folder)) for path in files}
    named = {part.file for part in manifest.parts if part.documents}
    if missing := sorted(named - there):
        raise DataError(f"{folder / missing[0]}: missing: {_manifest_of(folder)} names it; {_AGAIN}")
    if strangers := sorted(there - named):
        raise DataError(
            f"{folder / strangers[0]}: not of these vectors: {_manifest_of(folder)} does not name it; remove it"
        )


def _require_spec(folder: Path, manifest: Manifest) -> None:
    """Refuse vectors whose spec lies beside them no more, or is another one."""
    path = find_sidecar(folder)
    if path is None or EncodingSpec.load(path) != manifest.identity.spec:
        raise DataError(
            f"{folder}: their encoding spec is missing or not that of {_manifest_of(folder)}; restore {SPEC_FILE}, or "
            "encode with --overwrite"
        )


def _manifest_of(folder: Path) -> str:
    return f"{folder.absolute().name}.manifest.json"
