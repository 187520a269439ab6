"""The state of an encoding job on disk: what is done of it; every part appears whole or not at all.

Beside the output folder ``vectors`` (never in it, for Lucene reads every file there) lie

* while the job is unfinished, ``vectors.unfinished/``: the job's identity, a record for each finished part, and the
  files being written;
* when it is finished, ``vectors.manifest.json`` with the identity and all parts, ``vectors.encoding_spec.json``, and,
  if a document was skipped or has no term, ``vectors.skipped.jsonl``.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
from pathlib import Path
from typing import Any

import orjson
from filelock import FileLock
from pydantic import BaseModel, ConfigDict

from pyserini_llm_sparse.errors import UsageError
from pyserini_llm_sparse.files.atomic import atomic_file, disk_errors
from pyserini_llm_sparse.files.digests import file_sha256
from pyserini_llm_sparse.files.outputs import require_only
from pyserini_llm_sparse.files.work import Work, held, load
from pyserini_llm_sparse.indexing.vectors.identity import JobIdentity
from pyserini_llm_sparse.modelling.spec import sidecar

_logger = logging.getLogger(__name__)

_JOB, _RECORDS = "job.json", "part-*.json"
_PART_NAME = re.compile(r"embeddings-\d{5,}\.jsonl")


class Part(BaseModel):
    """What became of one window.

    Attributes:
        window: Number of the window.
        input_digest: Digest of the window's ids and texts.
        documents: Number of documents written.
        skipped: Reports of the records that were skipped.
        empty: Reports of the documents whose vector has no term; they are written, but Lucene does not index them.
        bytes: Size of the part's file.
        sha256: Digest of the part's file.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    window: int
    input_digest: str
    documents: int
    skipped: tuple[dict[str, Any], ...] = ()
    empty: tuple[dict[str, Any], ...] = ()
    bytes: int
    sha256: str

    @property
    def file(self) -> str:
        """Name of the part's file; one without documents has no file."""
        return f"embeddings-{self.window:05d}.jsonl"


class Manifest(BaseModel):
    """A finished job: its identity and its parts in the order of the corpus."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: int = 1
    identity: JobIdentity
    documents: int
    skipped: int
    empty: int
    parts: tuple[Part, ...]


class _EndedMeanwhileError(Exception):
    """Other processes have ended the job while this one was waiting to join it."""


class JobState:
    """The files of one job. Several processes may work on different shards of it at once."""

    def __init__(self, output: Path, shard: str = "0-of-1") -> None:
        self.output = Path(os.path.normpath(output))
        if not self.output.name:
            raise UsageError(
                f"{output}: not a folder of its own: vectors need a folder that holds nothing else; name one"
            )
        self.folder = self.beside(self.output, "unfinished")
        self.manifest_path = self.beside(self.output, "manifest.json")
        self.skipped_path = self.beside(self.output, "skipped.jsonl")
        self.parts: dict[int, Part] = {}
        self.begun: JobIdentity | None = None  # the job as it was when it was last started
        self._work = Work(self.output, self.folder, lock=f"shard-{shard}.lock", staging=f"shard-{shard}")
        self._job_lock = FileLock(self.folder / "job.lock")  # for moments, in which others wait

    @staticmethod
    def beside(output: Path, suffix: str) -> Path:
        """Return the path of one of the job's files beside the output folder."""
        return output.parent / f"{output.name}.{suffix}"

    def manifest(self) -> Manifest | None:
        """Return the manifest of the finished job, None if it is not finished.

        Raises:
            DataError: There is one, but it is damaged.
            ResourceError: It cannot be read.
        """
        return load(self.manifest_path, Manifest.model_validate_json)

    def open(self, identity: JobIdentity) -> None:
        """Take the lock, and find out what is done already; a finished job whose files are damaged is opened again.

        Raises:
            SpecMismatchError: The output belongs to another job.
            DataError: What tells whose it is, is damaged.
            RunError: Another process works on this shard.
            UsageError: The output folder holds files that no such job made.
        """
        self.require_vectors_only()
        with disk_errors(self.output):
            self.output.mkdir(parents=True, exist_ok=True)
        while not self._joined(identity):
            pass

    def start_again(self) -> None:
        """Remove what the output holds, before one process or several write it anew.

        Raises:
            RunError: A process is writing it.
            UsageError: The output folder holds files that no such job made.
        """
        self.require_vectors_only()
        with disk_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        # A process that starts now gets its shard's lock, and waits for the job's before it looks at anything.
        with self._job_lock, held(self.output, *self.folder.glob("shard-*.lock")), disk_errors(self.output):
            for path in (self.manifest_path, sidecar(self.output), self.skipped_path, self.folder / _JOB):
                path.unlink(missing_ok=True)
            for path in (*self.folder.glob(_RECORDS), *self.output.glob("*")):
                path.unlink()

    def require_vectors_only(self) -> None:
        """Refuse an output folder with files that no such job made.

        Raises:
            UsageError: There is one.
        """
        require_only(self.output, _PART_NAME, "is not a file of vectors, and Lucene reads every file in this folder")

    def close(self) -> None:
        """Give the lock back."""
        self._work.release()

    def write(self, part: Part, content: bytes) -> None:
        """Put a part in place, then record it; killed in between, it is computed and put in place again."""
        if part.documents:
            with atomic_file(self.output / part.file, self._work.staging) as stream:
                stream.write(content)
        self._record(part)
        self.parts[part.window] = part

    def finish(self, identity: JobIdentity, window_count: int, made_by: str = "") -> Manifest | None:
        """Write what describes the whole output once all parts, also those of other shards, are there.

        Returns:
            The manifest, or None while other shards are at work.
        """
        # Two shards may end at once; the second finds the first one's manifest, and perhaps no folder for its lock.
        try:
            with self._job_lock:
                manifest = self.manifest() or self._whole(identity, window_count, made_by)
                if manifest is not None:
                    self.clear()  # with the lock: a process that has just come must not open the job again meanwhile
        except FileNotFoundError:
            manifest = self.manifest()
            if manifest is None:
                raise
        if manifest is not None and os.name == "nt":  # which does not remove the lock while it is held
            self.clear()
        return manifest

    def clear(self) -> None:
        """Remove the records of a finished job, which its manifest replaces."""
        self._work.remove()

    def has_all_files(self, manifest: Manifest) -> bool:
        """Tell whether the files of a finished job are there with the recorded content."""
        return all(self._has_file(part) for part in manifest.parts)

    def _joined(self, identity: JobIdentity) -> bool:
        """Join the job; False if others have ended it meanwhile, and removed the folder with the locks."""
        try:
            self._work.take(lambda: self._take_over(identity))
        except _EndedMeanwhileError:
            return False
        return True

    def _take_over(self, identity: JobIdentity) -> None:
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(FileNotFoundError):  # there is no folder for the job's lock any more
                stack.enter_context(self._job_lock)
            if not self._work.is_there():
                raise _EndedMeanwhileError
            self._join(identity)
        self.parts = {part.window: part for part in self._recorded() if self._intact(part)}

    def _join(self, identity: JobIdentity) -> None:
        """Compare with the job that the output belongs to, or declare it to be this one's."""
        manifest = self.manifest()
        self.begun = manifest.identity if manifest else load(self.folder / _JOB, JobIdentity.model_validate_json)
        if self.begun is not None:
            identity.require_same(self.begun, self.output)
        elif any(self.output.iterdir()):
            raise UsageError(
                f"{self.output}: holds vectors of an unknown job: neither {self.manifest_path.name} nor "
                f"{self.folder.name} says which; choose another output, or give --overwrite to start again"
            )
        # Opened again: its parts become records, so that an interruption from here on leaves a known state.
        for part in manifest.parts if manifest else ():
            self._record(part)
        self._work.write(_JOB, identity.model_dump_json().encode())
        self.manifest_path.unlink(missing_ok=True)

    def _whole(self, identity: JobIdentity, window_count: int, made_by: str) -> Manifest | None:
        """Describe the output if all its parts are there; None if not."""
        parts = {part.window: part for part in self._recorded()}
        if set(parts) != set(range(window_count)):
            return None
        return self._describe(identity, [parts[window] for window in range(window_count)], made_by)

    def _describe(self, identity: JobIdentity, parts: list[Part], made_by: str) -> Manifest:
        """Write the report of skipped documents, the spec and, last, the manifest."""
        reports = [report for part in parts for report in (*part.skipped, *part.empty)]
        if reports:
            with atomic_file(self.skipped_path) as stream:
                stream.writelines(orjson.dumps(report) + b"\n" for report in reports)
        else:
            self.skipped_path.unlink(missing_ok=True)
        with disk_errors(sidecar(self.output)):
            identity.spec.save(sidecar(self.output), made_by)
        manifest = Manifest(
            identity=identity,
            documents=sum(part.documents for part in parts),
            skipped=sum(len(part.skipped) for part in parts),
            empty=sum(len(part.empty) for part in parts),
            parts=tuple(parts),
        )
        with atomic_file(self.manifest_path) as stream:
            stream.write(manifest.model_dump_json(indent=1).encode() + b"\n")
        return manifest

    def _record(self, part: Part) -> None:
        self._work.write(_record_name(part.window), part.model_dump_json().encode())

    def _recorded(self) -> list[Part]:
        return self._work.records(_RECORDS, Part.model_validate_json)

    def _intact(self, part: Part) -> bool:
        """Tell whether a recorded part's file is there with the recorded content; if not, the record is dropped."""
        intact = self._has_file(part)
        if not intact:
            _logger.warning("%s: is missing or damaged: its window is encoded again", self.output / part.file)
            (self.folder / _record_name(part.window)).unlink(missing_ok=True)
        return intact

    def _has_file(self, part: Part) -> bool:
        return self._file_size(part) == part.bytes and (
            not part.documents or file_sha256(self.output / part.file) == part.sha256
        )

    def _file_size(self, part: Part) -> int:
        path = self.output / part.file
        return path.stat().st_size if part.documents and path.is_file() else 0


def _record_name(window: int) -> str:
    return f"part-{window:05d}.json"
