"""What the README says can be pasted, runs."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tests.commands import Pyserini


def blocks(root: Path, language: str) -> list[str]:
    """The README's fenced blocks of one language, without the line that installs the package."""
    found = re.findall(rf"^```{language}\n(.*?)^```", (root / "README.md").read_text(encoding="utf-8"), re.M | re.S)
    return [re.sub(r"^pip install.*\n", "", block, flags=re.M) for block in found]


def examples(root: Path, folder: Path) -> Path:
    """The clone's examples in a folder of their own, in which the README's commands then find them."""
    return Path(shutil.copytree(root / "examples", folder / "examples"))


@pytest.mark.end_to_end
def test_the_readme_is_a_working_session(pyserini: Pyserini, root: Path, tmp_path: Path) -> None:
    examples(root, tmp_path)
    session, own_commands, _ = blocks(root, "bash")
    assert re.search(r"ndcg_cut_10\s+all\s+0\.\d+", pyserini.session(session, tmp_path))
    printed = pyserini.session(own_commands, tmp_path)
    assert "OK" in printed
    runs = [(tmp_path / "build" / "readme" / name).read_text().splitlines() for name in ("run.txt", "run2.txt")]
    assert [line.split()[:4] for line in runs[0]] == [line.split()[:4] for line in runs[1]]


@pytest.mark.end_to_end
def test_the_training_session_makes_a_model_that_explains_itself(
    pyserini: Pyserini, root: Path, tmp_path: Path
) -> None:
    """With as few steps as there are evaluations: how training goes is seen in other tests."""
    for path in (examples(root, tmp_path) / "training" / "small").glob("*.yaml"):
        text = path.read_text(encoding="utf-8")
        path.write_text(re.sub(r"(max_steps|eval_steps): (10|20|5)$", shorter, text, flags=re.M), encoding="utf-8")
    _, _, training = blocks(root, "bash")
    printed = pyserini.session(training, tmp_path)
    assert "trained 2 steps" in printed
    assert re.search(r"vaccine", printed)


def shorter(setting: re.Match[str]) -> str:
    """Two steps in place of ten or twenty, with an evaluation after each in place of five or ten."""
    return f"{setting[1]}: {2 if setting[1] == 'max_steps' else 1}"


def test_the_python_example_runs(pyserini: Pyserini, root: Path) -> None:
    (example,) = blocks(root, "python")
    assert "sky" in pyserini("-c", example).stdout


def test_every_link_within_the_repository_leads_somewhere(root: Path) -> None:
    for page in [root / "README.md", *(root / "docs").glob("*.md"), *(root / "examples").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page} links to {target}, which does not exist"
