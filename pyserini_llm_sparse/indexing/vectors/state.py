"""What is already done of an encoding job, on disk: every part appears whole or not at all.

Beside the output folder ``vectors`` (never in it, for Lucene reads every file there) lie

* while the job is unfinished, ``vectors.unfinished/``: the job's identity, a record for each finished part, and the
  files being written;
* when it is finished, ``vectors.manifest.json`` with the identity and all parts, ``vectors.encoding_spec.json``, and,
  if a document was skipped or has no term, ``vectors.skipped.jsonl``.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
from pathlib import Path
from typing import Any

import orjson
from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, ValidationError

from pyserini_llm_sparse.errors import DataError, ResourceError, RunError, UsageError
from pyserini_llm_sparse.files.atomic import atomic_file, disk_errors
from pyserini_llm_sparse.files.digests import file_sha256
from pyserini_llm_sparse.files.outputs import require_only
from pyserini_llm_sparse.indexing.vectors.identity import JobIdentity
from pyserini_llm_sparse.modelling.spec import sidecar

log = logging.getLogger("pyserini_llm_sparse")

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
        self.staging = self.folder / f"shard-{shard}"
        self.parts: dict[int, Part] = {}
        self.begun: JobIdentity | None = None  # the job as it was when it was last started
        self._lock = FileLock(self.folder / f"shard-{shard}.lock")
        self._job_lock = FileLock(self.folder / "job.lock")

    @staticmethod
    def beside(output: Path, suffix: str) -> Path:
        """Return the path of one of the job's files beside the output folder."""
        return output.parent / f"{output.name}.{suffix}"

    def manifest(self) -> Manifest | None:
        """Return the manifest of the finished job, None if it is not finished.

        Raises:
            DataError: There is one, but it cannot be read.
        """
        return _load(self.manifest_path, Manifest) if self.manifest_path.exists() else None

    def open(self, identity: JobIdentity, overwrite: bool) -> None:
        """Take the lock, and find out what is done already; a finished job whose files are damaged is opened again.

        Raises:
            SpecMismatchError: The output belongs to another job.
            RunError: Another process works on this shard.
            UsageError: The output folder holds files that no such job made.
        """
        self._refuse_foreign_files()
        with disk_errors(self.folder):
            self.output.mkdir(parents=True, exist_ok=True)
            self.folder.mkdir(exist_ok=True)
        self._acquire(self._lock)
        try:
            self._take_over(identity, overwrite)
        except BaseException:
            self.close()
            raise

    def start_again(self) -> None:
        """Remove what the output holds, before several processes write it anew.

        Raises:
            RunError: A process is writing it.
            UsageError: The output folder holds files that no such job made.
        """
        self._refuse_foreign_files()
        locks = [FileLock(path) for path in self.folder.glob("shard-*.lock")]
        try:
            for lock in locks:
                self._acquire(lock)
            if self.output.is_dir():
                self._remove_results()
        finally:
            for lock in locks:
                lock.release()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _take_over(self, identity: JobIdentity, overwrite: bool) -> None:
        """With the lock held: remove what a killed process left unfinished, and read what it finished."""
        with disk_errors(self.folder):
            shutil.rmtree(self.staging, ignore_errors=True)
            self.staging.mkdir()
        with self._job_lock:
            if overwrite:
                self._remove_results()
            self._join(identity)
        self.parts = {part.window: part for part in self._recorded() if self._intact(part)}

    def _acquire(self, lock: FileLock) -> None:
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise RunError(
                f"{self.output}: another process is writing it: {lock.lock_file} is locked; wait for it, or choose "
                "another --output"
            ) from error

    def close(self) -> None:
        """Give the lock back and remove unfinished files of this shard."""
        shutil.rmtree(self.staging, ignore_errors=True)
        self._lock.release()

    def write(self, part: Part, content: bytes) -> None:
        """Put a part in place, then record it; killed in between, it is computed and put in place again."""
        if part.documents:
            with atomic_file(self.output / part.file, self.staging) as stream:
                stream.write(content)
        with atomic_file(self._record_path(part.window), self.staging) as stream:
            stream.write(part.model_dump_json().encode())
        self.parts[part.window] = part

    def finish(self, identity: JobIdentity, window_count: int) -> Manifest | None:
        """Write what describes the whole output once all parts, also those of other shards, are there.

        Returns:
            The manifest, or None while other shards are at work.
        """
        # Two shards may end at once; the second finds the first one's manifest, and perhaps no folder for its lock.
        try:
            with self._job_lock:
                manifest = self.manifest() or self._whole(identity, window_count)
        except FileNotFoundError:
            manifest = self.manifest()
            if manifest is None:
                raise
        if manifest is not None:
            self.clear()
        return manifest

    def _whole(self, identity: JobIdentity, window_count: int) -> Manifest | None:
        """Describe the output if all its parts are there; None if not."""
        parts = {part.window: part for part in self._recorded()}
        if set(parts) != set(range(window_count)):
            return None
        return self._describe(identity, [parts[window] for window in range(window_count)])

    def clear(self) -> None:
        """Remove the records of a finished job, which its manifest replaces."""
        self._lock.release()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _describe(self, identity: JobIdentity, parts: list[Part]) -> Manifest:
        """Write the report of skipped documents, the spec and, last, the manifest."""
        reports = [report for part in parts for report in (*part.skipped, *part.empty)]
        if reports:
            with atomic_file(self.skipped_path) as stream:
                stream.writelines(orjson.dumps(report) + b"\n" for report in reports)
        else:
            self.skipped_path.unlink(missing_ok=True)
        with disk_errors(sidecar(self.output)):
            identity.spec.save(sidecar(self.output))
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

    def _join(self, identity: JobIdentity) -> None:
        """Compare with the job that the output belongs to, or declare it to be this one's."""
        manifest, path = self.manifest(), self.folder / "job.json"
        if manifest:
            self.begun = manifest.identity
            identity.require_same(self.begun, self.output)
            # Opened again: its parts become records, so that an interruption from here on leaves a known state.
            for part in manifest.parts:
                with atomic_file(self._record_path(part.window), self.staging) as stream:
                    stream.write(part.model_dump_json().encode())
        if path.exists():
            self.begun = _load(path, JobIdentity)
            identity.require_same(self.begun, self.output)
        elif not manifest and any(self.output.iterdir()):
            raise UsageError(
                f"{self.output}: holds vectors of an unknown job: neither {self.manifest_path.name} nor "
                f"{self.folder.name} says which; choose another --output, or give --overwrite"
            )
        with atomic_file(path, self.staging) as stream:
            stream.write(identity.model_dump_json().encode())
        if manifest:
            self.manifest_path.unlink()

    def _recorded(self) -> list[Part]:
        return [_load(path, Part) for path in sorted(self.folder.glob("part-*.json"))]

    def _record_path(self, window: int) -> Path:
        return self.folder / f"part-{window:05d}.json"

    def has_all_files(self, manifest: Manifest) -> bool:
        """Tell whether the files of a finished job are there in their recorded sizes, without reading them."""
        return all(self._file_size(part) == part.bytes for part in manifest.parts)

    def _intact(self, part: Part) -> bool:
        """Tell whether a recorded part's file is there with the recorded content; if not, the record is dropped."""
        intact = self._file_size(part) == part.bytes and (
            not part.documents or file_sha256(self.output / part.file) == part.sha256
        )
        if not intact:
            log.warning("%s: is missing or damaged: its window is encoded again", self.output / part.file)
            self._record_path(part.window).unlink(missing_ok=True)
        return intact

    def _file_size(self, part: Part) -> int:
        path = self.output / part.file
        return path.stat().st_size if part.documents and path.is_file() else 0

    def _refuse_foreign_files(self) -> None:
        require_only(self.output, _PART_NAME, "is not a file of vectors, and Lucene reads every file in this folder")

    def _remove_results(self) -> None:
        with disk_errors(self.output):
            for path in (self.manifest_path, sidecar(self.output), self.skipped_path, self.folder / "job.json"):
                path.unlink(missing_ok=True)
            for path in (*self.folder.glob("part-*.json"), *self.output.iterdir()):
                path.unlink()


def _load(path: Path, model: type[Any]) -> Any:
    try:
        return model.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]["msg"]
        raise DataError(f"{path}: damaged record of a job: {first}; give --overwrite to start again") from error
    except OSError as error:
        raise ResourceError(f"{path}: cannot be read: {error.strerror or error}; check the path") from error
