"""A ``python`` that need not load PyTorch and transformers first: nine tenths of a short command's time.

`WarmPython.path` is an executable that takes what ``python`` takes. It asks an interpreter that has loaded the large
libraries, but neither Pyserini nor the plugin, for a fork that becomes ``python -m MODULE``, ``python -c CODE`` or
``python SCRIPT``, with the asker's environment, folder, standard streams and exit code. What the command does itself,
the start-up hook and the imports of Pyserini and the plugin among it, it does as in a process of its own; that of its
children which are Python are forks as well. A command that an interpreter of its own can tell apart, by its options or
by variables that count at the start, gets one.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import runpy
import select
import shlex
import shutil
import signal
import site
import socket
import subprocess
import sys
import sysconfig
import tempfile
import threading
import traceback
import types
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

LIBRARIES = (
    "torch", "torch._dynamo", "transformers.modeling_utils", "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto", "transformers.models.bert.modeling_bert",
    "transformers.models.clip.modeling_clip", "transformers.models.clip.processing_clip",
    "transformers.models.distilbert.modeling_distilbert", "transformers.models.llama.modeling_llama",
    "transformers.models.roberta.modeling_roberta", "faiss", "openai", "openai.types", "orjson", "pandas",
    "pydantic", "requests", "scipy.stats", "sklearn.linear_model", "sklearn.preprocessing", "typer",
)  # fmt: skip
# A command's JVM lives for a second or two: the compiler that takes long to make code fast costs more than it saves.
JVM_OPTIONS = ("-XX:TieredStopAtLevel=1",)
# Variables that count when an interpreter or a library starts, which a fork has behind it.
COUNT_AT_START = ("HF_", "LANG", "LC_", "OMP_NUM_THREADS", "PYTHON", "TRANSFORMERS_")
MADE_UP_FOR = ("PYTHONIOENCODING", "PYTHONPATH")

ASK = """\
import json, os, socket, sys
counts = lambda name: name.startswith(tuple(PREFIXES)) and name not in MADE_UP_FOR
counted = lambda given: {name: value for name, value in given.items() if counts(name)}
arguments, variables = sys.argv[1:], dict(os.environ)
streams = {str(number) for number in range(3)}
opened = [name for name in os.listdir("/dev/fd") if name not in streams and os.path.exists(f"/dev/fd/{name}")]
plain = arguments and (arguments[0] in ("-m", "-c") or not arguments[0].startswith("-"))
if not plain or opened or counted(variables) != counted(STARTED_WITH):
    os.execv(PYTHON, [PYTHON, *arguments])
with socket.socket(socket.AF_UNIX) as asked:
    asked.connect(ADDRESS)
    request = json.dumps({"arguments": arguments, "folder": os.getcwd(), "environment": variables}).encode()
    socket.send_fds(asked, [len(request).to_bytes(8, "big")], [0, 1, 2])
    asked.sendall(request)
    code = int(asked.recv(16) or 70)
if code < 0:
    os.kill(os.getpid(), -code)
os._exit(code)
"""


class WarmPython:
    """An interpreter that has loaded the libraries and waits to be forked, and the executable that asks it."""

    def __init__(self, python: Path, environment: Mapping[str, str]) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="warm-"))
        self.path = self._folder / "bin" / "python"
        self.path.parent.mkdir()
        address = str(self._folder / "s")  # short: systems allow about a hundred letters
        facts = {
            "ADDRESS": address, "PYTHON": str(python), "STARTED_WITH": dict(environment), "PREFIXES": COUNT_AT_START,
            "MADE_UP_FOR": MADE_UP_FOR,
        }  # fmt: skip
        asking = self._folder / "ask.py"
        asking.write_text("".join(f"{name} = {value!r}\n" for name, value in facts.items()) + ASK, encoding="utf-8")
        ask = shlex.join([str(python), "-I", "-S", str(asking)])
        self.path.write_text(f'#!/bin/sh\nexec {ask} "$@"\n', encoding="utf-8")
        self.path.chmod(0o755)
        self._process = subprocess.Popen(
            [python, __file__, address, str(self.path)], env={**environment, "PYSERINI_LLM_SPARSE_DISABLE": "1"},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert self._process.stdout is not None
        assert self._process.stdout.readline(), "the interpreter that commands are forked from has ended"

    def close(self) -> None:
        """End the interpreter."""
        self._process.communicate()
        shutil.rmtree(self._folder)


def become(request: dict[str, Any], streams: list[int], executable: str) -> None:
    """Let this process have the environment, the folder, the streams and the arguments of a command, and be it."""
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    for descriptor, stream in enumerate(streams):
        os.dup2(stream, descriptor)
        os.close(stream)
    # Of those that this process had it is known whether they can be sought in, and what of them was read ahead.
    encoding = os.environ.get("PYTHONIOENCODING")
    sys.stdin = sys.__stdin__ = open(0, encoding=encoding, closefd=False)  # noqa: SIM115
    sys.stdout = sys.__stdout__ = open(1, "w", encoding=encoding, closefd=False)  # noqa: SIM115
    sys.stderr = sys.__stderr__ = open(2, "w", 1, encoding, "backslashreplace", closefd=False)  # noqa: SIM115
    sys.executable = executable
    sys.path[1:1] = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    # What Python's start does with the line that starts the plugin.
    sys.modules.pop("_pyserini_llm_sparse_boot", None)
    site.addpackage(sysconfig.get_path("purelib"), "pyserini_llm_sparse.pth", None)
    first, *rest = request["arguments"]
    sys.orig_argv = [executable, first, *rest]
    if first == "-m":
        sys.argv, sys.path[0] = rest, request["folder"]
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif first == "-c":
        sys.argv, sys.path[0] = ["-c", *rest[1:]], ""
        own = sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(rest[0], "<string>", "exec"), own.__dict__)
    else:
        sys.argv, sys.path[0] = [first, *rest], str(Path(first).resolve().parent)
        runpy.run_path(first, run_name="__main__")


def end(command: Callable[[], None]) -> NoReturn:
    """Run a command and end as Python does, but for taking apart all that was loaded, which takes longer than most."""
    code = 0
    try:
        command()
    except SystemExit as asked:
        code = asked.code if isinstance(asked.code, int) else int(asked.code is not None)
        if isinstance(asked.code, str):
            print(asked.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


def received(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """What is asked for, and the standard streams that came with it."""
    size, streams, _, _ = socket.recv_fds(connection, 8, 3)
    with connection.makefile("rb") as stream:
        return json.loads(stream.read(int.from_bytes(size, "big"))), streams


def serve(connection: socket.socket, executable: str) -> NoReturn:
    """Be what is asked for in a fork, which ends with the asker, and tell the exit code."""
    request, streams = received(connection)
    ended, wake = socket.socketpair()
    wake.setblocking(False)
    signal.set_wakeup_fd(wake.fileno())
    signal.signal(signal.SIGCHLD, lambda *_: None)
    child = os.fork()
    if child == 0:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for one in (connection, ended, wake):
            one.close()
        end(partial(become, request, streams, executable))
    for stream in streams:
        os.close(stream)
    if connection in select.select([connection, ended], [], [])[0]:
        os.kill(child, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with suppress(OSError):  # nobody waits for it
        connection.sendall(b"%d" % code)
    os._exit(0)


def main() -> None:
    """Load the libraries; then be each command that is asked for in a fork."""
    address, executable = sys.argv[1:]
    for name in LIBRARIES:
        importlib.import_module(name)
    importlib.import_module("jnius_config").add_options(*JVM_OPTIONS)
    gc.collect()
    gc.freeze()  # else the first collection of each process copies all memory
    assert threading.active_count() == 1, "a process with threads cannot be forked safely"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(address)
        server.listen()
        print("ready", flush=True)
        while sys.stdin not in (waiting := select.select([server, sys.stdin], [], [], 1)[0]):
            if server in waiting:
                connection, _ = server.accept()
                if os.fork() == 0:
                    server.close()
                    serve(connection, executable)
                connection.close()
            _reap(os.WNOHANG)
    _reap(0)


def _reap(options: int) -> None:
    """Wait for processes that have ended."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, options)[0]:
            pass


if __name__ == "__main__":
    main()
