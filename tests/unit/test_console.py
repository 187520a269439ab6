"""Progress in a log: lines from time to time, also while Java's own messages are kept away."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from pyserini_llm_sparse.cli import console
from pyserini_llm_sparse.cli.console import progress_bar, status_line, still_at_work

Output = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "FIRST_LINE", 0.05)
    monkeypatch.setattr(console, "LAST_PAUSE", 0.05)


def test_without_a_terminal_progress_is_a_line_from_time_to_time(capsys: Output) -> None:
    with progress_bar(lambda: 1_000, "documents") as progress:
        progress(300, False)
        for _ in range(20):
            progress(10, True)
            time.sleep(0.02)
    lines = capsys.readouterr().err.splitlines()
    assert 1 <= len(lines) < 20
    assert all(line.startswith("pyserini-llm-sparse: ") and " of 1,000 documents" in line for line in lines)
    assert " a second, " in lines[-1] and lines[-1].endswith(" left")


def test_what_takes_no_time_prints_no_line(capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "FIRST_LINE", 60.0)
    with progress_bar(lambda: 2, "documents") as progress, still_at_work("index"), status_line() as show:
        progress(2, True)
        show("50 %")
    assert capsys.readouterr().err == ""


def test_a_total_that_cannot_be_told_costs_the_total_alone(capsys: Output) -> None:
    def total() -> int:
        raise OSError("no network")

    with progress_bar(total, "documents") as progress:
        progress(3, True)
        time.sleep(0.3)
    assert "pyserini-llm-sparse: 3 documents" in capsys.readouterr().err.splitlines()


def test_a_command_that_is_watched_from_outside_tells_how_far_it_is(capsys: Output) -> None:
    with status_line() as show:
        for _ in range(10):
            show("45 %, 00:12 left")
            time.sleep(0.02)
    lines = capsys.readouterr().err.splitlines()
    assert 1 <= len(lines) < 10 and set(lines) == {"pyserini-llm-sparse:   45 %, 00:12 left"}


def test_notes_and_progress_go_on_while_java_is_kept_quiet() -> None:
    program = (
        "import os, time\n"
        "from pyserini_llm_sparse.cli import console\n"
        "console.FIRST_LINE = 0.05\n"
        "with console.without_java_warnings(), console.still_at_work('i: indexing'), console.without_java_warnings():\n"
        "    os.write(2, b'WARNING: of the runtime\\n')\n"
        "    console.say('a note')\n"
        "    time.sleep(0.3)\n"
        "console.say('after it')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    lines = done.stderr.splitlines()
    assert lines[0] == "pyserini-llm-sparse: a note" and lines[-1] == "pyserini-llm-sparse: after it"
    assert lines[1].startswith("pyserini-llm-sparse: i: indexing: 0.") and lines[1].endswith(" s so far")
    assert "runtime" not in done.stderr
