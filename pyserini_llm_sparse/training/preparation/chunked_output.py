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

from pyserini_llm_sparse.errors import UsageError
from pyserini_llm_sparse.files.atomic import atomic_file
from pyserini_llm_sparse.files.outputs import require_file, something_else
from pyserini_llm_sparse.files.work import LOCK, Work, load, record, require_same

SUFFIXES = (".jsonl", ".jsonl.gz")
_RUN = "run.json"
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
        self._work = Work(output, self.work)
        self._counts: dict[int, Counter[str]] = {}
        self._work.take(lambda: self._take_over(orjson.loads(orjson.dumps(identity)), overwrite))

    def __enter__(self) -> ChunkedOutput:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._work.release()

    def done(self, chunk: int) -> bool:
        """Tell whether a chunk is finished."""
        counts = record(self.work / _record_name(chunk), _counts)
        if counts is None or not (self.work / _part_name(chunk)).is_file():
            return False
        self._counts[chunk] = counts
        return True

    def write(self, chunk: int, lines: bytes, counts: Mapping[str, int]) -> None:
        """Keep a finished chunk; killed in between, it is made again."""
        self._work.write(_part_name(chunk), lines)
        self._work.write(_record_name(chunk), orjson.dumps(dict(counts)))
        self._counts[chunk] = Counter(counts)

    def finish(self, chunks: int) -> Counter[str]:
        """Put the chunks together, remove the unfinished work, and return the sums of the counts.

        Args:
            chunks: Their number; each was found done, or written.
        """
        counts: Counter[str] = Counter()
        with atomic_file(self.output, self._work.staging) as target:
            compressed = self.output.name.endswith(".gz")
            # Without a name and a time, the bytes depend on the content alone.
            stream = gzip.GzipFile("", "wb", compresslevel=6, fileobj=target, mtime=0) if compressed else target
            for chunk in range(chunks):
                counts.update(self._counts[chunk])
                with (self.work / _part_name(chunk)).open("rb") as part:
                    shutil.copyfileobj(part, stream)
            if compressed:
                stream.close()
        self._work.remove()
        return counts

    def _take_over(self, identity: dict[str, Any], overwrite: bool) -> None:
        path = self.work / _RUN
        if self._has_finished_work():
            if not path.is_file():
                raise something_else(self.work, "there are files but no run")
            if not overwrite:
                require_same(self.work, identity, load(path, _identity) or {})
                return
            if record(path, _identity) == identity:
                return
        self._work.clear()
        self._work.write(_RUN, orjson.dumps(identity))

    def _has_finished_work(self) -> bool:
        """Tell whether the folder holds more than a run that ended before it had done anything leaves."""
        names = {path.name for path in self.work.iterdir()} - {LOCK, _RUN}
        return any(not name.startswith((".", UNFINISHED)) for name in names)


def _part_name(chunk: int) -> str:
    return f"chunk-{chunk:06d}.jsonl"


def _record_name(chunk: int) -> str:
    return f"chunk-{chunk:06d}.counts.json"


def _identity(content: bytes) -> dict[str, Any]:
    return dict(orjson.loads(content))


def _counts(content: bytes) -> Counter[str]:
    return Counter({str(name): int(count) for name, count in dict(orjson.loads(content)).items()})
