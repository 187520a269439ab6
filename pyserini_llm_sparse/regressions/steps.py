"""One step of a regression: a Pyserini command whose output is a folder, done once for the same inputs.

A step's folder appears when the step is finished, with what it took in `RECORD`. A process that is killed leaves an
unfinished folder beside it, which the next run removes: nothing is ever half done.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from pyserini_llm_sparse.errors import RunError
from pyserini_llm_sparse.formats.writers import disk_errors

RECORD = "step.json"
LOG = "log.txt"
UNFINISHED = ".unfinished"
OWN_FOLDER = "{folder}"  # in a command: where the step's output goes


@dataclass(frozen=True, eq=False)
class Step:
    """A step; two that make the same are one object.

    Attributes:
        title: What it does, for people.
        folder: Where its output will be.
        command: Arguments of ``python -m``; `OWN_FOLDER` stands for the folder. Empty if `work` does it.
        after: Steps whose output it reads.
        contents: What else its output depends on, by name: tells the content of models, files and versions.
        work: Fills the folder in this process, and returns what to keep in the record.
    """

    title: str
    folder: Path
    command: tuple[str, ...] = ()
    after: tuple[Step, ...] = ()
    contents: Mapping[str, Callable[[], str]] = field(default_factory=dict)
    work: Callable[[Path], dict[str, Any]] | None = None

    @cached_property
    def key(self) -> str:
        """Names everything that the output depends on: what two steps with the same key would make is the same.

        Raises:
            LlmSparseError: Something of that cannot be read.
        """
        places = {f"{step.folder}{os.sep}": f"{step.key}{os.sep}" for step in self.after}
        command = []
        for part in self.command:
            for place, key in places.items():
                part = part.replace(place, key)
            command.append(part)
        contents = {name: tell() for name, tell in self.contents.items()}
        known = [command, sorted(places.values()), sorted(contents.items())]
        return hashlib.sha256(json.dumps(known).encode()).hexdigest()

    def record(self) -> dict[str, Any] | None:
        """Return what is kept of the step if it is done, for the inputs that it has now; else None.

        Raises:
            LlmSparseError: See `key`.
        """
        found = self._kept()
        return found if found.get("key") == self.key else None

    def earlier_seconds(self) -> float | None:
        """Return how long it took the last time, whatever its inputs were; None if it was never done."""
        return self._kept().get("seconds")

    def _kept(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads((self.folder / RECORD).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found

    def shown(self) -> str:
        """Return the command as it can be pasted into a shell, empty if there is none."""
        return f"python -m {shlex.join(self._arguments(self.folder))}" if self.command else ""

    def run(self) -> dict[str, Any]:
        """Do the step. Returns its record.

        Raises:
            RunError: The command failed; the last line that it printed is told.
            LlmSparseError: What is done in this process failed.
        """
        unfinished = self.folder.with_name(f"{self.folder.name}{UNFINISHED}")
        with disk_errors(self.folder):
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir(parents=True)
        started = time.monotonic()
        if self.work is not None:
            kept, peak = self.work(unfinished), None
        else:
            kept, peak = {}, self._run_command(unfinished)
        record = {
            **kept, "key": self.key, "title": self.title, "command": self.shown(),
            "seconds": round(time.monotonic() - started, 3), "peak_bytes": peak,
        }  # fmt: skip
        with disk_errors(self.folder):
            (unfinished / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
            shutil.rmtree(self.folder, ignore_errors=True)
            unfinished.replace(self.folder)
        return record

    def _arguments(self, folder: Path) -> list[str]:
        return [part.replace(OWN_FOLDER, str(folder)) for part in self.command]

    def _run_command(self, folder: Path) -> int | None:
        """Run the command with its output in a folder. Returns the peak of its memory, where the system tells it."""
        log = self.folder.with_name(f"{self.folder.name}.{LOG}")
        with log.open("wb") as stream:
            process = subprocess.Popen(
                [sys.executable, "-m", *self._arguments(folder)], stdin=subprocess.DEVNULL, stdout=stream,
                stderr=subprocess.STDOUT,
            )  # fmt: skip
            try:
                code, peak = _wait(process)
            except BaseException:
                process.kill()
                process.wait()
                raise
        if code:
            raise RunError(f"{self.title}: exit code {code}: {last_line(log)}; {log} has all that it printed")
        log.replace(folder / LOG)
        return peak


def last_line(log: Path) -> str:
    """Return the last line of a log that says something."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return next((" ".join(line.split())[:300] for line in reversed(lines) if line.strip()), "it printed nothing")


def _wait(process: subprocess.Popen[bytes]) -> tuple[int, int | None]:
    """Wait for a process. Returns its exit code and its largest resident memory in bytes, or what this one has."""
    if not hasattr(os, "wait4"):
        return process.wait(), None
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, used.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
