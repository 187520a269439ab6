"""Commands as a user gives them: in a process each, with the plugin's start-up files in place."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from dataclasses import dataclass
from pathlib import Path

START_UP_FILES = ("_pyserini_llm_sparse_boot.py", "pyserini_llm_sparse.pth", "pyserini_llm_sparse.start")
Done = subprocess.CompletedProcess[str]


@dataclass(frozen=True)
class Pyserini:
    """Runs commands in a process of their own.

    Attributes:
        python: An interpreter with the plugin.
        folder: Where commands run that are not told where.
        warm: What is as good as this interpreter and starts faster; the interpreter, where there is no such thing.
    """

    python: Path
    folder: Path
    warm: Path

    def __call__(self, *arguments: object, check: bool = True, **variables: str) -> Done:
        """Run ``python`` with arguments."""
        return self._run([self.warm, *arguments], check, self.folder, variables, stderr=subprocess.PIPE)

    def module(self, name: str, *arguments: object, check: bool = True, **variables: str) -> Done:
        """Run ``python -m name``."""
        return self("-m", name, *arguments, check=check, **variables)

    def session(self, lines: str, folder: Path) -> str:
        """Paste lines into a shell with the interpreter's environment activated. Returns all that they print."""
        path = os.pathsep.join([str(self.warm.parent), str(self.python.parent), os.environ["PATH"]])
        return self._run(["bash", "-euc", lines], True, folder, {"PATH": path}, stderr=subprocess.STDOUT).stdout

    def _run(
        self, command: list[object], check: bool, folder: Path, variables: dict[str, str], stderr: int
    ) -> Done:  # fmt: skip
        done = subprocess.run(
            [str(word) for word in command], cwd=folder, env=user_environment() | variables, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=stderr, text=True, encoding="utf-8", check=False,
        )  # fmt: skip
        if check:
            assert done.returncode == 0, f"{done.args}\n{done.stdout[-3000:]}\n{(done.stderr or '')[-4000:]}"
        return done


def user_environment() -> dict[str, str]:
    """The environment, in which nothing names Java, a path or a key."""
    unnamed = ("PYTHONPATH", "JAVA_HOME", "JDK_HOME", "JRE_HOME", "JVM_PATH", "OPENAI_API_KEY")
    kept = {name: value for name, value in os.environ.items() if name not in unnamed}
    return kept | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}


def interpreter(folder: Path, root: Path) -> Path:
    """This interpreter where the plugin is installed, otherwise one that is made in a folder."""
    if (Path(sysconfig.get_path("purelib")) / "pyserini_llm_sparse.pth").is_file():
        return Path(sys.executable)
    return _with_start_up_files(folder, root)


def _with_start_up_files(folder: Path, root: Path) -> Path:
    """An interpreter that has all that this one has, the checkout, and the start-up files as an installation has."""
    venv.EnvBuilder(with_pip=False, symlinks=os.name != "nt").create(folder)
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(subprocess.check_output([python, "-c", code], text=True).strip())
    for name in START_UP_FILES:
        shutil.copy(root / name, site)
    # Names that sort behind: the start-up file must not need what these lines add.
    lines = [str(root), *dict.fromkeys(path for path in sys.path if Path(path).name == "site-packages")]
    (site / "zz_checkout.pth").write_text("\n".join(lines), encoding="utf-8")
    return python
