"""No child outlives the process that started it, however that ends, and none needs anything of it to run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pyserini_llm_sparse.children import child
from pyserini_llm_sparse.system import own_environment

pytestmark = pytest.mark.skipif(os.name != "posix", reason="there are no signals to end a process by on this system")

# Writes for as long as it runs, and starts what does so, too.
BUSY = """
import os, pathlib, subprocess, sys, time
me = pathlib.Path(sys.argv[1])
if me.name == "first":
    subprocess.Popen([sys.executable, __file__, me.with_name("second")])
while True:
    me.write_text(str(os.getpid()))
    time.sleep(0.02)
"""
PARENT = """
import signal, subprocess, sys
from pathlib import Path
from pyserini_llm_sparse.cli import app
from pyserini_llm_sparse.regressions.run.steps import Step
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # which nohup has ignored, and then so do we
app.app.command("step")(lambda: Step("busy", Path(sys.argv[1]) / "step", ("busy", sys.argv[1] + "/first")).run())
sys.exit(app.main(["step"]))
"""


@pytest.fixture
def busy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which the module ``busy`` is found and writes its process's number."""
    (tmp_path / "busy.py").write_text(BUSY, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path


def numbers(folder: Path) -> list[int]:
    """The numbers of both processes, once they run."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        try:
            return [int((folder / name).read_text()) for name in ("first", "second")]
        except (FileNotFoundError, ValueError):
            time.sleep(0.05)
    raise AssertionError("they did not start")


def are_gone(processes: list[int]) -> bool:
    end = time.monotonic() + 10
    while time.monotonic() < end:
        if not any(_is_there(number) for number in processes):
            return True
        time.sleep(0.05)
    return False


def _is_there(number: int) -> bool:
    try:
        os.kill(number, 0)
        state = Path(f"/proc/{number}/stat")
        return not (state.is_file() and state.read_text().rpartition(")")[2].split()[0] == "Z")  # nobody waits for it
    except (ProcessLookupError, FileNotFoundError):
        return False


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGHUP", 129), ("SIGKILL", -9)])
def test_a_step_ends_with_the_process_that_does_it(name: str, code: int, busy: Path) -> None:
    command = [sys.executable, "-c", PARENT, str(busy)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, env=own_environment()) as parent:
        assert parent.stderr is not None
        processes = numbers(busy)
        parent.send_signal(getattr(signal, name))
        assert parent.wait(60) == code
        assert are_gone(processes)
        said = parent.stderr.read().decode()
    assert (f"ended by {name}; give the same command again to go on" in said) is (name != "SIGKILL")


def test_a_child_ends_with_its_context_and_all_that_it_started_does(busy: Path) -> None:
    with pytest.raises(KeyboardInterrupt), child("busy", str(busy / "first"), output=subprocess.DEVNULL):
        processes = numbers(busy)
        raise KeyboardInterrupt
    assert are_gone(processes)


def test_a_child_reads_nothing_and_says_all_on_one_stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import sys\nprint(sys.argv[1:], sys.stdin.read(), flush=True)\nsys.exit('none')\n"
    (tmp_path / "says.py").write_text(code, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with child("says", "a", output=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.read().split() == [b"['a']", b"none"]
        assert process.wait() == 1
