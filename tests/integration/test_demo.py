"""The demo does what its README says, from the first command to the comparison."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.commands import Pyserini

pytestmark = pytest.mark.end_to_end
NUMBER = re.compile(r"\d\.\d{3}")


@pytest.fixture(scope="module")
def output(pyserini: Pyserini, model: Path, root: Path) -> str:
    """What the demo prints with a small model that nobody has trained."""
    script = root / "examples" / "demo" / "run.py"
    return pyserini(script, "--work", "demo", "--encoder", f"csplade:{model}").stdout


def test_every_step_is_shown_and_timed(output: str) -> None:
    assert re.findall(r"^\[(\d)/8\]", output, re.MULTILINE) == list("12345678")
    assert len(re.findall(r"^      python -m ", output, re.MULTILINE)) == 8
    assert len(re.findall(r"^      \d+\.\d s$", output, re.MULTILINE)) == 8


def test_bm25_finds_what_it_always_finds(output: str) -> None:
    # the same on both lines of Pyserini
    row = next(line for line in output.splitlines() if line.startswith("all 40 queries"))
    assert NUMBER.findall(row) == ["0.564", "0.569", "0.672"]


def test_the_comparison_covers_every_query(output: str) -> None:
    wins = [int(count) for count in re.findall(r"is better on (\d+) of 40", output)]
    same = re.search(r"Both are the same on (\d+)\.", output)
    assert same is not None
    assert len(wins) == 2
    assert sum(wins) + int(same[1]) == 40


def test_the_explained_terms_add_up_to_lucenes_score(output: str) -> None:
    total = re.search(r"sum ([\d,]+); Lucene's score ([\d,]+)", output)
    assert total is not None
    assert total[1] == total[2]
