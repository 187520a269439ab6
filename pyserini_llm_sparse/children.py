"""Child processes: Python modules that run with the plugin and end when this process ends, however that happens.

The standard input of a child is a pipe to which nothing is written. The system closes it when the parent is gone, also
by SIGKILL, and a thread of the child that waits for this ends it, with whatever it has started itself.
"""

from __future__ import annotations

import contextlib
import os
import runpy
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO

from pyserini_llm_sparse.system import own_environment

_STANDARD_INPUT = 0
_SECONDS_TO_END = 10


@contextlib.contextmanager
def child(module: str, *arguments: str, output: int | IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """Run ``python -m module`` in a process that has ended where the context ends; its input is empty.

    Args:
        module: Pyserini's or any other; what imports Pyserini has the plugin, whatever is installed.
        *arguments: Its arguments.
        output: Where what it prints goes, errors too: a file, or ``subprocess.PIPE``.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "pyserini_llm_sparse.children", module, *arguments],
        stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT, env=own_environment(),
    )  # fmt: skip
    try:
        yield process
    finally:
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()
        try:
            process.wait(_SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def end_when_closed(descriptor: int, end: Callable[[], object], heard: Callable[[], object] = lambda: None) -> None:
    """Wait, in a thread, for the other end of a pipe to be closed, and then end this process.

    Args:
        descriptor: The pipe's. Not a Python stream: the thread would hold its lock for ever, and Python cannot end
            without that.
        end: Ends the process.
        heard: Called when something comes through the pipe.
    """

    def wait() -> None:
        while os.read(descriptor, 1024):
            heard()
        end()

    threading.Thread(target=wait, daemon=True).start()


def run_module(words: Sequence[str]) -> None:
    """Be ``python -m`` of a module and its arguments, with the plugin, also where that is not installed."""
    import _pyserini_llm_sparse_boot as boot

    if boot.PyseriniTrigger not in sys.meta_path:
        sys.meta_path.insert(0, boot.PyseriniTrigger)
    sys.argv = list(words)
    runpy.run_module(words[0], run_name="__main__", alter_sys=True)


def main() -> None:
    """Be the module that the arguments name, for as long as the parent lives."""
    lifeline = os.dup(_STANDARD_INPUT)  # which children of this process do not inherit
    with Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), _STANDARD_INPUT)
    # In a group of its own, so that the end can be that of all.
    if hasattr(os, "setpgid") and os.getpgrp() != os.getpid():
        os.setpgid(0, 0)
    end_when_closed(lifeline, _end_all)
    run_module(sys.argv[1:])


def _end_all() -> None:
    if hasattr(os, "killpg"):
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


if __name__ == "__main__":
    main()
