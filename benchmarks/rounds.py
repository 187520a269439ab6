"""Rounds of several ways to do the same: each way in a process of its own, and their rounds alternate."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pyserini_llm_sparse.errors import LlmSparseError, one_line

Figures = dict[str, float]
KILLED = -9  # exit code


@dataclass
class Measured:
    """What came of all ways.

    Attributes:
        figures: Of each way that ran, in the order in which they were named: see `summary`.
        not_run: Why others did not.
    """

    figures: dict[str, Figures] = field(default_factory=dict)
    not_run: dict[str, str] = field(default_factory=dict)

    def save(self, path: Path | None) -> None:
        """Write everything as JSON, if a file is named."""
        if path is not None:
            content = {**self.figures, **{way: {"not_run": reason} for way, reason in self.not_run.items()}}
            path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

    def print_reasons(self) -> None:
        """Say below a table which ways did not run, and why."""
        for way, reason in self.not_run.items():
            print(f"\n{way}: not run: {reason}")

    def ratio(self, way: str, peer: str, figure: str) -> str:
        """Return how many times the peer's figure a way's is; a dash if the peer did not run."""
        theirs = self.figures.get(peer, {}).get(figure)
        return f"{self.figures[way][figure] / theirs:.2f}" if theirs else "-"


def summary(runs: Sequence[Figures]) -> Figures:
    """Return the median of each figure of some rounds, and of peaks (``peak...``) the largest."""
    names = [name for name in runs[0] if all(name in run for run in runs)]
    return {
        name: max(run[name] for run in runs)
        if name.startswith("peak")
        else statistics.median(run[name] for run in runs)
        for name in names
    }


def print_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a Markdown table."""
    print(f"| {' | '.join(header)} |", "|" + "---|" * len(header), sep="\n")
    for row in rows:
        print(f"| {' | '.join(row)} |", flush=True)


def serve(load: Callable[[], Callable[[], Figures]]) -> None:
    """Be a way's process: load, then work once for each line on standard input, and print the figures of that round.

    Args:
        load: Loads and warms up. Returns what does one round.
    """
    try:
        work = load()
        print(json.dumps({"ready": 1}), flush=True)
        for _ in sys.stdin:
            print(json.dumps(work()), flush=True)
    except (LlmSparseError, ImportError, RuntimeError, MemoryError) as error:  # torch's are RuntimeErrors
        print(json.dumps({"not_run": one_line(error)}), flush=True)


def alternate(
    commands: Mapping[str, Sequence[object]], rounds: int, twice: Collection[str] = (), together: bool = True
) -> Measured:
    """Measure each way's process (see `serve`) for some rounds.

    Args:
        commands: The script and the arguments of each way.
        rounds: Rounds of each.
        twice: Ways that are started and ended once before: what their first start writes, such as an export, counts
            neither as their time nor as their memory.
        together: Whether all ways stay loaded; else each round starts a process anew, alone in memory.
    """
    measured, runs = Measured(), {way: list[Figures]() for way in commands}
    running: dict[str, subprocess.Popen[str]] = {}
    for way, command in commands.items():
        try:
            if way in twice:
                _stop(_start(way, command))
            if together:
                running[way] = _start(way, command)
        except _NotRun as reason:
            measured.not_run[way] = str(reason)
    for _ in range(rounds):
        for way in [way for way in commands if way not in measured.not_run]:
            try:
                process = running[way] if together else _start(way, commands[way])
                runs[way].append(_round(way, process))
                if not together:
                    _stop(process)
            except _NotRun as reason:
                measured.not_run[way] = str(reason)
    for process in running.values():
        _stop(process)
    measured.figures = {way: summary(found) for way, found in runs.items() if way not in measured.not_run}
    return measured


class _NotRun(Exception):
    """A way refused, and said why."""


def _start(way: str, command: Sequence[object]) -> subprocess.Popen[str]:
    """Start a way and wait until it is ready."""
    words = [sys.executable, *map(str, command)]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    _answer(way, process)
    return process


def _round(way: str, process: subprocess.Popen[str]) -> Figures:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()
    return _answer(way, process)


def _answer(way: str, process: subprocess.Popen[str]) -> Figures:
    """Read until a line that is an answer; libraries may print, too."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("{"):
            answer: dict[str, float] = json.loads(line)
            if "not_run" in answer:
                _stop(process)
                raise _NotRun(answer["not_run"])
            return answer
    _stop(process)
    if process.returncode == KILLED:  # by the system, as a rule: the others still fit
        raise _NotRun("killed, perhaps for want of memory: the ways that run are all in memory")
    raise SystemExit(f"{way}: failed; its message is above")


def _stop(process: subprocess.Popen[str]) -> None:
    """End a way's process by ending its input."""
    process.communicate()
