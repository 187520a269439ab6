"""One step of a regression: a Pyserini command whose output is a folder, done once for the same inputs.

A step's folder appears when the step is finished, with what it took and digests of its files in `RECORD`. A process
that is killed leaves an unfinished folder beside it, which the next run removes: nothing is ever half done. A step of
which a file has changed since, or is gone, is done again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from pyserini_llm_sparse.children import child
from pyserini_llm_sparse.errors import RunError
from pyserini_llm_sparse.files.atomic import disk_errors
from pyserini_llm_sparse.files.digests import quick_digest
from pyserini_llm_sparse.files.work import LOCK, held, record, remove_lock
from pyserini_llm_sparse.system import last_line

_logger = logging.getLogger(__name__)

RECORD = "step.json"
OUTPUTS = "outputs"  # in it: the digest of each file that the step made
KEY = "step.key"  # in an unfinished folder: what it was begun for
LOG = "log.txt"
UNFINISHED = ".unfinished"
WATCHED_EVERY = 0.5  # seconds
SILENT_AT_FIRST = 5.0  # seconds that a command without a progress bar has before it is said that it is still at work
_TAIL_BYTES = 4096
_BAR = re.compile(rb"(\d+)%\|[^\r\n]*\[[\d:]+<([\d:]+),")  # tqdm's: 45%|####  | 9/20 [00:10<00:12, ...
OWN_FOLDER = "{folder}"  # in a command: where the step's output goes


@dataclass(frozen=True, eq=False)
class Step:
    """A step; two that make the same are one object.

    Attributes:
        title: What it does, for people.
        folder: Where its output will be.
        command: Arguments of ``python -m``; `OWN_FOLDER` stands for the folder. Empty if `work` does it.
        after: Steps whose output it reads.
        contents: What else its output depends on: tells the content of models, files and versions. Where its name is
            an argument of the command, the content counts and not the name: a model may be moved.
        work: Fills the folder in this process, and returns what to keep in the record.
        resumes: Whether the command goes on with what it left in the folder when it was killed.
        check: Arguments of ``python -m``, too: a command that fails if the output is not what it should be.
    """

    title: str
    folder: Path
    command: tuple[str, ...] = ()
    after: tuple[Step, ...] = ()
    contents: Mapping[str, Callable[[], str]] = field(default_factory=dict)
    work: Callable[[Path], dict[str, Any]] | None = None
    resumes: bool = False
    check: tuple[str, ...] = ()

    @cached_property
    def key(self) -> str:
        """Names everything that the output depends on: what two steps with the same key would make is the same.

        Raises:
            LlmSparseError: Something of that cannot be read.
        """
        places = {f"{step.folder}{os.sep}": f"{step.key}{os.sep}" for step in self.after}
        contents = {name: tell() for name, tell in self.contents.items()}
        command = []
        for part in self.command:
            for place, key in places.items():
                part = part.replace(place, key)
            command.append(contents.get(part, part))
        known = [command, sorted(places.values()), sorted(contents.values())]
        return hashlib.sha256(json.dumps(known).encode()).hexdigest()

    def record(self) -> dict[str, Any] | None:
        """Return what is kept of the step if it is done, for the inputs that it has now; else None.

        Raises:
            LlmSparseError: See `key`.
        """
        found = self._kept()
        outputs = found.pop(OUTPUTS, {})
        return found if found.get("key") == self.key and self._are_there(outputs) else None

    def _are_there(self, outputs: Mapping[str, str]) -> bool:
        """Tell whether the files that a step made are as it made them."""
        for name, digest in outputs.items():
            path = self.folder / name
            if not path.is_file() or quick_digest(path) != digest:
                _logger.warning("%s: is missing or changed: it counts as not made (%s)", path, self.title)
                (self.folder / RECORD).unlink(missing_ok=True)
                return False
        return True

    def earlier_seconds(self) -> float | None:
        """Return how long it took the last time, whatever its inputs were; None if it was never done."""
        return self._kept().get("seconds")

    def _kept(self) -> dict[str, Any]:
        return record(self.folder / RECORD, lambda content: dict(json.loads(content))) or {}

    def shown(self) -> str:
        """Return the command as it can be pasted into a shell, empty if there is none."""
        return f"python -m {shlex.join(_for_folder(self.command, self.folder))}" if self.command else ""

    def run(self, progress: Callable[[str], None] | None = None) -> dict[str, Any]:
        """Do the step. Returns its record.

        Args:
            progress: Told how far the command says that it is, while it runs.

        Raises:
            RunError: The command failed; the last line that it printed is told. Or another process is at the step.
            LlmSparseError: What is done in this process failed.
        """
        with held(self.folder, lock := self.folder.with_name(f"{self.folder.name}.{LOCK}")):
            made = self.record() or self._made(progress)  # perhaps another process has just done it
            remove_lock(lock)
        return made

    def _made(self, progress: Callable[[str], None] | None) -> dict[str, Any]:
        """Make the folder beside its place, with the lock held, and put it there. Returns the record."""
        unfinished = self.folder.with_name(f"{self.folder.name}{UNFINISHED}")
        with disk_errors(self.folder):
            if not (self.resumes and record(unfinished / KEY, bytes.decode) == self.key):
                shutil.rmtree(unfinished, ignore_errors=True)
                unfinished.mkdir(parents=True)
                (unfinished / KEY).write_text(self.key, encoding="utf-8")
        log = self.folder.with_name(f"{self.folder.name}.{LOG}")
        log.unlink(missing_ok=True)
        started = time.monotonic()
        if self.work is not None:
            kept, peak = self.work(unfinished), None
        else:
            kept, peak = {}, self._run_command(self.command, unfinished, log, progress)
        seconds = round(time.monotonic() - started, 3)
        if self.check:
            self._run_command(self.check, unfinished, log, progress)
        made = {
            **kept, "key": self.key, "title": self.title, "command": self.shown(), "seconds": seconds,
            "peak_bytes": peak,
        }  # fmt: skip
        with disk_errors(self.folder):
            outputs = {
                path.relative_to(unfinished).as_posix(): quick_digest(path)
                for path in sorted(unfinished.rglob("*")) if path.is_file() and path.name not in (KEY, RECORD)
            }  # fmt: skip
            if log.exists():
                log.replace(unfinished / LOG)
            (self.folder / RECORD).unlink(missing_ok=True)  # first: half of a folder is not to be taken for a whole one
            shutil.rmtree(self.folder, ignore_errors=True)
            (unfinished / RECORD).write_text(json.dumps({**made, OUTPUTS: outputs}, indent=1) + "\n", encoding="utf-8")
            unfinished.replace(self.folder)
            (self.folder / KEY).unlink()  # last: killed before, a step that resumes has it still
        return made

    def _run_command(
        self, command: Sequence[str], folder: Path, log: Path, progress: Callable[[str], None] | None
    ) -> int | None:  # fmt: skip
        """Run a command for a folder. Returns the peak of its memory, where the system tells it."""
        with log.open("ab") as stream, child(*_for_folder(command, folder), output=stream) as process:
            watch = None if progress is None else partial(_tell, log, time.monotonic(), progress)
            code, peak = _wait(process, watch)
        if code:
            last = last_line(log.read_text(encoding="utf-8", errors="replace"))
            raise RunError(f"{self.title}: exit code {code}: {last}; {log} has all that it printed")
        return peak


def _for_folder(command: Sequence[str], folder: Path) -> list[str]:
    return [part.replace(OWN_FOLDER, str(folder)) for part in command]


def _wait(process: subprocess.Popen[bytes], watch: Callable[[], None] | None) -> tuple[int, int | None]:
    """Wait for a process. Returns its exit code and its largest resident memory in bytes, or what this one has.

    Args:
        process: The process.
        watch: Called from time to time while it runs.
    """
    if not hasattr(os, "wait4"):
        return process.wait(), None
    while True:
        found, status, used = os.wait4(process.pid, 0 if watch is None else os.WNOHANG)
        if found:
            process.returncode = os.waitstatus_to_exitcode(status)
            return process.returncode, used.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        if watch is not None:
            watch()
            time.sleep(WATCHED_EVERY)


def _tell(log: Path, started: float, progress: Callable[[str], None]) -> None:
    """Tell how far a command is: the last progress bar of tqdm in what it printed, or how long it has been at work."""
    with log.open("rb") as stream:
        stream.seek(max(0, log.stat().st_size - _TAIL_BYTES))
        bars = _BAR.findall(stream.read())
    if bars:
        share, left = bars[-1]
        progress(f"{share.decode()} %, {left.decode()} left")
    elif (passed := time.monotonic() - started) > SILENT_AT_FIRST:
        progress(f"{passed:,.0f} s so far")
