"""A file of JSON lines made chunk by chunk, so that an interrupted run continues to the same bytes.

While a run is unfinished, ``OUTPUT.work/`` beside the output holds what the run is (``run.json``), each finished chunk
with its counts, and whatever else the run wants to keep. The output appears whole at the end, and the folder goes.
"""

from __future__ import annotations

import gzip
import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import orjson
from filelock import FileLock, Timeout

from pyserini_llm_sparse.errors import DataError, RunError, UsageError
from pyserini_llm_sparse.files.atomic import atomic_file, disk_errors
from pyserini_llm_sparse.files.outputs import require_file, something_else

SUFFIXES = (".jsonl", ".jsonl.gz")
UNFINISHED = "unfinished-"  # start of the names of what a run may begin anew, in the folder of its work

Progress = Callable[[int, bool], None]
"""Called with a number of examples and whether they were done now; False for those of an interrupted run."""


def require_new_output(output: Path, overwrite: bool) -> None:
    """Refuse an output before any work is done.

    Raises:
        UsageError: Its name is not that of a JSONL file, or it exists and may not be replaced.
        ResourceError: Its folder does not exist.
    """
    if not output.name.endswith(SUFFIXES) or output.name in SUFFIXES:
        raise UsageError(f"{output}: not a file of JSON lines; choose an output that ends in {' or '.join(SUFFIXES)}")
    require_file(output, overwrite)


class ChunkedOutput:
    """The chunks of one output. One process writes it at a time.

    Attributes:
        output: The file in the end.
        work: The folder for what is unfinished.
    """

    def __init__(self, output: Path, identity: Mapping[str, Any], overwrite: bool = False) -> None:
        """Start a run, or go on with the same one; with ``overwrite`` another run's unfinished work is removed.

        Args:
            output: A name that `require_new_output` takes.
            identity: All that the bytes of the output depend on, in JSON's types.
            overwrite: Whether the output and the unfinished work of another run may be replaced.

        Raises:
            UsageError: The output exists, or its folder of unfinished work holds files of something else.
            DataError: Another run's unfinished work lies there.
            RunError: Another process is at it.
            ResourceError: The folder cannot be written to.
        """
        require_new_output(output, overwrite)
        self.output = output
        self.work = output.parent / f"{output.name}.work"
        with disk_errors(self.work):
            self.work.mkdir(exist_ok=True)
        self._lock = FileLock(self.work / "lock")
        try:
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise RunError(f"{output}: another process is writing it; wait for it, or choose another output") from error
        try:
            self._take_over(orjson.loads(orjson.dumps(identity)), overwrite)
        except BaseException:
            self._lock.release()
            raise

    def __enter__(self) -> ChunkedOutput:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._lock.release()

    def done(self, chunk: int) -> bool:
        """Tell whether a chunk is finished."""
        return self._record(chunk).is_file()

    def write(self, chunk: int, lines: bytes, counts: Mapping[str, int]) -> None:
        """Keep a finished chunk; killed in between, it is made again."""
        with atomic_file(self._part(chunk)) as stream:
            stream.write(lines)
        with atomic_file(self._record(chunk)) as stream:
            stream.write(orjson.dumps(dict(counts)))

    def finish(self, chunks: int) -> Counter[str]:
        """Put the chunks together, remove the unfinished work, and return the sums of the counts."""
        counts: Counter[str] = Counter()
        with atomic_file(self.output) as target:
            compressed = self.output.name.endswith(".gz")
            # Without a name and a time, the bytes depend on the content alone.
            stream = gzip.GzipFile("", "wb", compresslevel=6, fileobj=target, mtime=0) if compressed else target
            for chunk in range(chunks):
                counts.update(orjson.loads(self._record(chunk).read_bytes()))
                with self._part(chunk).open("rb") as part:
                    shutil.copyfileobj(part, stream)
            if compressed:
                stream.close()
        self._lock.release()
        shutil.rmtree(self.work, ignore_errors=True)
        return counts

    def _take_over(self, identity: dict[str, Any], overwrite: bool) -> None:
        path = self.work / "run.json"
        if path.is_file():
            try:
                before = orjson.loads(path.read_bytes())
            except orjson.JSONDecodeError:
                before = {}
            if before == identity:
                return
            changed = sorted(key for key in {*identity, *before} if identity.get(key) != before.get(key))
            if self._finished_work() and not overwrite:
                raise DataError(
                    f"{self.work}: holds an unfinished run of other settings or data ({', '.join(changed)} differ); "
                    "restore them, choose another output, or give --overwrite to start again"
                )
        elif self._finished_work():
            raise something_else(self.work, "there are files but no run")
        with disk_errors(self.work):
            for left in self.work.iterdir():
                if left.is_dir():
                    shutil.rmtree(left)
                elif left.name != "lock":
                    left.unlink()
        with atomic_file(path) as stream:
            stream.write(orjson.dumps(identity))

    def _finished_work(self) -> bool:
        """Tell whether the folder holds more than a run that ended before it had done anything leaves."""
        names = {path.name for path in self.work.iterdir()} - {"lock", "run.json"}
        return any(not name.startswith((".", UNFINISHED)) for name in names)

    def _part(self, chunk: int) -> Path:
        return self.work / f"chunk-{chunk:06d}.jsonl"

    def _record(self, chunk: int) -> Path:
        return self.work / f"chunk-{chunk:06d}.counts.json"
