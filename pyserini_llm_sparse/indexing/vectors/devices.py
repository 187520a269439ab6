"""The encoding of a corpus on several devices of a machine: a process for each, which does one shard of the windows."""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson

from pyserini_llm_sparse import errors
from pyserini_llm_sparse.errors import LlmSparseError, ResourceError, RunError, UsageError
from pyserini_llm_sparse.indexing.vectors.job import Progress
from pyserini_llm_sparse.indexing.vectors.report import EncodeReport
from pyserini_llm_sparse.indexing.vectors.shard import Shard
from pyserini_llm_sparse.indexing.vectors.state import JobState
from pyserini_llm_sparse.system import cores_each, own_environment

EVERY_GPU = "cuda:all"
_SECONDS_TO_END = 10
_SECONDS_TO_NOTICE = 0.5  # an interrupt, which Windows does not deliver while a thread waits

_logger = logging.getLogger(__name__)


def devices_of(named: str | None) -> list[str] | None:
    """Return the devices that an option names as a list, or as `EVERY_GPU`; None if it names one, or none.

    Raises:
        UsageError: A name of the list is empty.
        ResourceError: There is no GPU.

    >>> devices_of("cuda:0, cuda:1"), devices_of("cuda:0")
    (['cuda:0', 'cuda:1'], None)
    """
    if named == EVERY_GPU:
        import torch

        count = torch.cuda.device_count()
        if not count:
            raise ResourceError(f"device {named}: torch {torch.__version__} sees no GPU; name the devices, or use cpu")
        return [f"cuda:{number}" for number in range(count)]
    if named is None or "," not in named:
        return None
    devices = [name.strip() for name in named.split(",")]
    if not all(devices):
        raise UsageError(f"device {named}: a name is missing in the list; write it as cuda:0,cuda:1")
    return devices


def encode_on_devices(
    encoder: str,
    devices: Sequence[str],
    corpus: str | Path,
    output: str | Path,
    *,
    loading: dict[str, Any] | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
    **encoding: Any,
) -> EncodeReport:
    """Encode a corpus with one process for each device; together they write the files that one process would.

    Each process reads the whole corpus and encodes each n-th window of it. If one fails, the others are ended. The same
    call goes on after that, also with other devices, or with `encode_corpus`.

    Args:
        encoder: An encoder name.
        devices: One for each process; the same may come more than once.
        corpus: As for `encode_corpus`.
        output: The same.
        loading: Further arguments of `SparseEncoder.load`. Without ``threads`` and OMP_NUM_THREADS, the processes share
            the cores.
        overwrite: As for `encode_corpus`.
        progress: The same.
        **encoding: Its further arguments but those of the shard.

    Raises:
        LlmSparseError: As `SparseEncoder.load` and `encode_corpus` say; the first error of a process.
        RunError: A process was killed.
    """
    loading = dict(loading or {})
    _prepare(encoder, devices, loading)
    threads = loading.get("threads")
    if threads is None and not os.environ.get("OMP_NUM_THREADS"):
        threads = cores_each(len(devices))
    with _Processes(len(devices)) as processes:
        for number, device in enumerate(devices):
            place = {"corpus": str(corpus), "output": str(output), "shard_id": number, "shard_num": len(devices)}
            loads = {**loading, "device": device, "threads": threads}
            processes.start(device, Shard(encoder, loads, encoding | place, anew=overwrite))
        empty = JobState(Path(output), "all").start_again
        return _whole(processes.reports(progress or (lambda count, now: None), empty))


def _prepare(encoder: str, devices: Sequence[str], loading: dict[str, Any]) -> None:
    """Find out in this process what would fail in each, and export the model where that is still to be done."""
    from pyserini_llm_sparse.encoder import SparseEncoder

    for device in dict.fromkeys(devices):
        loaded = SparseEncoder.load(encoder, **{**loading, "device": device})
        _ = loaded.loader.device
    loaded.loader.prepare()


def _whole(reports: list[EncodeReport]) -> EncodeReport:
    """Return one report of the shards': what they did together, and the output as the last to finish found it."""
    whole = next((report for report in reports if report.finished), None)
    if whole is None:
        raise RunError("encode: all processes ended, but the output is not whole; give the same command again")
    done = {
        "encoded": sum(report.encoded for report in reports),
        "truncated": sum(report.truncated for report in reports),
        "seconds": max(report.seconds for report in reports),
    }
    return EncodeReport(**{**asdict(whole), **done})


class _Processes:
    """The processes, and what they say; none outlives the context."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._running: list[tuple[str, subprocess.Popen[bytes]]] = []
        self._events: queue.Queue[tuple[int, dict[str, Any] | None]] = queue.Queue()

    def __enter__(self) -> _Processes:
        return self

    def __exit__(self, *exception: object) -> None:
        for _, process in self._running:
            if process.poll() is None:
                process.terminate()
        for _, process in self._running:
            assert process.stdin is not None
            try:
                process.wait(_SECONDS_TO_END)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            process.stdin.close()

    def start(self, device: str, shard: Shard) -> None:
        """Start a process and give it its job."""
        environment = {"RAYON_NUM_THREADS": str(cores_each(self._count)), **own_environment()}
        process = subprocess.Popen(
            [sys.executable, "-m", "pyserini_llm_sparse.indexing.vectors.shard"],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._running.append((device, process))
        threading.Thread(target=self._listen, args=(len(self._running) - 1, process), daemon=True).start()
        _send(process, orjson.dumps(asdict(shard)) + b"\n")

    def reports(self, progress: Progress, empty: Callable[[], None]) -> list[EncodeReport]:
        """Wait for all processes, passing on their progress and notes. Returns their reports, in order.

        Args:
            progress: Told about records.
            empty: Removes what the output holds, once all processes that are to write it anew are ready.

        Raises:
            LlmSparseError: The first error of a process.
        """
        ready = 0
        reports: dict[int, EncodeReport] = {}
        noted = set()
        while len(reports) < len(self._running):
            try:
                number, event = self._events.get(timeout=_SECONDS_TO_NOTICE)
            except queue.Empty:
                continue
            match event:
                case {"progress": [count, now]}:
                    progress(count, now)
                case {"ready": _}:
                    ready += 1
                    if ready == len(self._running):
                        empty()
                        for _, process in self._running:
                            _send(process, b"empty\n")
                case {"note": note} if note not in noted:
                    noted.add(note)
                    _logger.warning("%s", note)
                case {"report": report}:
                    skipped = report.pop("skipped_path")
                    reports[number] = EncodeReport(**report, skipped_path=Path(skipped) if skipped else None)
                case {"error": [kind, message]}:
                    raise getattr(errors, kind, LlmSparseError)(message)
                case None if number not in reports:
                    raise self._ended(number)
        return [reports[number] for number in sorted(reports)]

    def _ended(self, number: int) -> RunError:
        """Return the error for a process that said nothing before it ended."""
        device, process = self._running[number]
        code = process.wait()
        how = f"with exit code {code}"
        if code < 0:
            how = f"by {signal.Signals(-code).name}" + (", perhaps for want of memory" if code == -9 else "")
        return RunError(f"{device}: its process was ended {how}; give the same command again to go on")

    def _listen(self, number: int, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        with process.stdout as lines:
            for line in lines:
                self._events.put((number, orjson.loads(line)))
        self._events.put((number, None))


def _send(process: subprocess.Popen[bytes], line: bytes) -> None:
    assert process.stdin is not None
    with contextlib.suppress(OSError):  # it has ended already, which its listener tells
        process.stdin.write(line)
        process.stdin.flush()
