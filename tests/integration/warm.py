"""Commands in processes that need not load PyTorch and transformers first: nine tenths of a short command's time.

Run as a program, this file is an interpreter that has loaded the large libraries, but neither Pyserini nor the plugin,
and that becomes ``python -m MODULE`` for each line of standard input, in a fork. What the command does itself, the
start-up hook and the imports of Pyserini and the plugin among it, it does as in a process of its own. Its exit code
comes on standard output.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import runpy
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

LIBRARIES = (
    "torch", "torch._dynamo", "transformers.modeling_utils", "transformers.models.auto.modeling_auto",
    "transformers.models.bert.modeling_bert", "transformers.models.llama.modeling_llama", "scipy.stats",
    "sklearn.preprocessing", "pandas", "openai", "openai.types",
)  # fmt: skip


class WarmInterpreter:
    """Runs modules as programs, one after another, each in a fork of an interpreter that is ready for them."""

    def __init__(self, python: Path, folder: Path, environment: Mapping[str, str]) -> None:
        self._outputs = [str(folder / f"warm-{name}.txt") for name in ("output", "errors")]
        self._process = subprocess.Popen(
            [python, __file__], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, arguments: Sequence[str], folder: Path, environment: Mapping[str, str]) -> tuple[int, str, str]:
        """Run ``python -m`` in a folder. Returns the exit code, and what went to standard output and error."""
        request = {
            "arguments": arguments, "folder": str(folder), "environment": dict(environment), "outputs": self._outputs
        }  # fmt: skip
        assert self._process.stdin is not None and self._process.stdout is not None
        print(json.dumps(request), file=self._process.stdin, flush=True)
        code = self._process.stdout.readline()
        assert code, "the interpreter that commands are forked from has ended"
        output, errors = (Path(path).read_text(encoding="utf-8") for path in self._outputs)
        return int(code), output, errors

    def close(self) -> None:
        """End the interpreter."""
        self._process.communicate()


def become(request: dict[str, Any]) -> None:
    """Let this process have the environment, the folder, the output and the arguments of a command."""
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    for descriptor, path in enumerate([os.devnull, *request["outputs"]]):
        flags = os.O_RDONLY if descriptor == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        opened = os.open(path, flags, 0o644)
        os.dup2(opened, descriptor)
        os.close(opened)
    sys.argv = request["arguments"]
    sys.orig_argv = [sys.executable, "-m", *request["arguments"]]
    sys.path[0] = request["folder"]  # as ``-m`` has it


def main() -> None:
    """Load the libraries; then each process that a request makes leaves the loop and is its command."""
    for name in LIBRARIES:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # else the first collection of each process copies all memory
    assert threading.active_count() == 1, "a process with threads cannot be forked safely"
    requests = sys.stdin
    while line := requests.readline():
        child = os.fork()
        if child == 0:
            become(json.loads(line))
            runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
            return
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(code, flush=True)


if __name__ == "__main__":
    main()
