"""What the README says can be pasted, runs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest


def blocks(root: Path, language: str) -> list[str]:
    """The README's fenced blocks of one language, without the line that installs the package."""
    found = re.findall(rf"^```{language}\n(.*?)^```", (root / "README.md").read_text(encoding="utf-8"), re.M | re.S)
    return [re.sub(r"^pip install.*\n", "", block, flags=re.M) for block in found]


def run(command: list[str], root: Path) -> str:
    """Run a command as a user in the clone with the environment activated; fail with all that it printed."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    finished = subprocess.run(
        command, cwd=root, env={**os.environ, "PATH": path}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert finished.returncode == 0, finished.stdout[-3000:]
    return finished.stdout


@pytest.fixture(scope="module")
def clean(root: Path) -> None:
    """Start without what an earlier run of the README left behind."""
    subprocess.run(["rm", "-rf", str(root / "build" / "readme"), str(root / "build" / "training")], check=True)


@pytest.mark.end_to_end
@pytest.mark.usefixtures("clean")
def test_the_readme_is_a_working_session(root: Path) -> None:
    session, own_commands, _ = blocks(root, "bash")
    assert re.search(r"ndcg_cut_10\s+all\s+0\.\d+", run(["bash", "-euc", session], root))
    printed = run(["bash", "-euc", own_commands], root)
    assert "OK" in printed
    runs = [(root / "build" / "readme" / name).read_text().splitlines() for name in ("run.txt", "run2.txt")]
    assert [line.split()[:4] for line in runs[0]] == [line.split()[:4] for line in runs[1]]


@pytest.mark.end_to_end
@pytest.mark.usefixtures("clean")
def test_the_training_session_makes_a_model_that_explains_itself(root: Path) -> None:
    _, _, training = blocks(root, "bash")
    printed = run(["bash", "-euc", training], root)
    assert "trained 20 steps" in printed
    assert re.search(r"vaccine", printed)


def test_the_python_example_runs(root: Path) -> None:
    (example,) = blocks(root, "python")
    assert "sky" in run([sys.executable, "-c", example], root)


def test_every_link_within_the_repository_leads_somewhere(root: Path) -> None:
    for page in [root / "README.md", *(root / "docs").glob("*.md"), *(root / "examples").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page} links to {target}, which does not exist"
