"""What is broken of one system, or damaged on disk, is told in a line, and the report of the others is written."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyserini_llm_sparse.cli.app import main
from pyserini_llm_sparse.errors import DataError
from pyserini_llm_sparse.files.digests import file_sha256
from pyserini_llm_sparse.regressions.outcome.details import read_explanations, read_measured
from pyserini_llm_sparse.regressions.outcome.problems import contained
from pyserini_llm_sparse.regressions.outcome.results import Result
from pyserini_llm_sparse.regressions.report.markdown import plain
from pyserini_llm_sparse.regressions.runner import score_collection, write_reports
from tests.report_results import made_up_result

RECIPE = """\
title: Rankings of others
collections:
  small: {corpus: corpus.tsv, topics: topics.tsv, qrels: qrels.txt}
systems:
  good: {kind: run, path: good.txt}
  bad: {kind: run, path: bad.txt}
measures: [nDCG@10]
"""
RUN = b"1 Q0 d1 1 9.0 x\n1 Q0 d2 2 8.0 x\n"
WORK = Path("work") / "recipe" / "small"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with a collection of one query and a recipe of two rankings."""
    monkeypatch.chdir(tmp_path)
    for name, content in {
        "recipe.yaml": RECIPE.encode(), "corpus.tsv": b"d1\tbread\nd2\tcheese\n", "topics.tsv": b"1\tbread\n",
        "qrels.txt": b"1 0 d1 1\n", "good.txt": RUN, "bad.txt": RUN,
    }.items():  # fmt: skip
        (tmp_path / name).write_bytes(content)
    return tmp_path


def regress(capsys: pytest.CaptureFixture[str], code: int) -> dict[str, Any]:
    """Run the recipe; both reports are there, whatever came of it."""
    assert main(["regress", "recipe.yaml", "--work", "work", "--json"]) == code
    told = capsys.readouterr()
    found: dict[str, Any] = json.loads(told.out)["collections"]["small"]
    markdown, page = (Path("work", "recipe", name).read_text() for name in ("report.md", "report.html"))
    for system, problem in found["problems"].items():
        assert (
            f"- {plain(system)} failed: {plain(problem)}" in markdown and f"<strong>{system}</strong> failed: " in page
        )
        assert problem in told.err and "unexpected" not in problem
    for system in found["scores"]:
        assert f"\n| {system} | " in markdown and f'<span class="name">{system}</span>' in page
    return found


def as_made(path: Path, content: str) -> None:
    """Put a file in the place of a step's output, as if the step had made it."""
    path.write_text(content)
    record = path.parent / "step.json"
    kept = json.loads(record.read_text())
    kept["outputs"][path.name] = file_sha256(path)
    record.write_text(json.dumps(kept))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"1\td1\t1\n", "bad.txt:1: not a line of a run: it has 3 columns, not six"),
        (b"1 Q0 d1 1 high x\n", "bad.txt:1: not a line of a run: its score 'high' is not a finite number"),
        ("1 Q0 d\u00e4 1 9.0 x\n".encode("latin-1"), "bad.txt:1: not a line of a run: it is not UTF-8"),
        (b"", "bad.txt: no ranking"),
        (bytes(range(256)) * 40, "bad.txt:1: not a line of a run"),
    ],
    ids=["three columns", "a word as score", "not UTF-8", "empty", "binary"],
)
def test_a_malformed_ranking_is_told_and_the_other_system_is_scored(
    content: bytes, said: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "bad.txt").write_bytes(content)
    found = regress(capsys, code=7)
    assert found["scores"]["good"]["nDCG@10"]["mean"] == 1 and set(found["scores"]) == {"good"}
    assert found["problems"]["bad"].startswith(said)


def test_a_ranking_that_a_step_left_malformed_loses_its_system_alone(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert set(regress(capsys, code=0)["scores"]) == {"good", "bad"}
    as_made(run := WORK / "bad" / "search" / "run.txt", "1 Q0 d1\n")
    found = regress(capsys, code=7)
    assert set(found["scores"]) == {"good"}
    assert found["problems"] == {"bad": found["problems"]["bad"]} and f"{run}:1: " in found["problems"]["bad"]


def test_half_a_ranking_gives_no_half_a_score_but_is_made_again(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = regress(capsys, code=0)
    run = WORK / "bad" / "search" / "run.txt"
    for spoil in (lambda: run.write_bytes(RUN[: len(RUN) // 2]), run.unlink):
        spoil()
        assert regress(capsys, code=0) == before and run.read_bytes() == RUN


def test_damaged_judgements_are_the_problem_of_every_system(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    regress(capsys, code=0)
    as_made(WORK / "_collection" / "qrels.txt", "1 0 d1 much\n")
    found = regress(capsys, code=6)
    assert not found["scores"] and set(found["problems"]) == {"good", "bad"}
    assert all("qrels.txt:1: not a judgement" in problem for problem in found["problems"].values())


def test_damaged_topics_leave_the_scores_as_they_are(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    regress(capsys, code=0)
    as_made(WORK / "_collection" / "beir-topics.tsv", "no tab\n")
    found = regress(capsys, code=7)
    assert set(found["scores"]) == {"good", "bad"} and "beir-topics.tsv:1: " in found["problems"]["queries"]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"key": "other"}', "{KEY}"])
def test_a_step_whose_record_is_damaged_is_done_again(
    content: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = regress(capsys, code=0)
    record = WORK / "bad" / "search" / "step.json"
    record.write_text(content.replace("KEY", f'"key": "{json.loads(record.read_text())["key"]}"'))
    assert regress(capsys, code=0) == before
    assert json.loads(record.read_text())["seconds"] >= 0


def test_a_failure_beside_a_problem_hides_neither(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (folder / "recipe.yaml").open("a") as stream:
        stream.write("expected: {small: {good: {nDCG@10: 0.5}}}\n")
    (folder / "bad.txt").write_bytes(b"")
    assert main(["regress", "recipe.yaml", "--work", "work"]) == 6
    told = capsys.readouterr().err
    assert "good: nDCG@10 is 1.0000, 0.5 was expected" in told and "bad.txt: no ranking" in told


@pytest.fixture
def result(tmp_path: Path) -> Result:
    return made_up_result(tmp_path, queries=5)


def again(result: Result) -> Result:
    """The same result, found out again from what is on disk."""
    collections = {
        name: score_collection(result.recipe, found.plan, result.records, {})
        for name, found in result.collections.items()
    }
    return Result(result.recipe, collections, result.records, 0, 1.0, 1.0)


DAMAGED = (b"", b"{", b"[]", b"\xff\x00", b'{"latency_ms": {"q000": "slow"}}', b'{"latency_ms": {"q000": -1}}')


@pytest.mark.parametrize("content", DAMAGED)
def test_damaged_measurements_leave_the_scores_and_the_other_costs(
    content: bytes, result: Result, tmp_path: Path
) -> None:
    before = result.collections["first"]
    path = before.plan.details["csplade"][0].folder / "measure.json"
    path.write_bytes(content)
    write_reports(found := again(result), tmp_path / "report")
    after = found.collections["first"]
    assert after.scores == before.scores and after.costs["bm25"] == before.costs["bm25"]
    assert set(after.problems) == {"csplade (costs)", "bm25+csplade (costs)"}
    assert after.problems["csplade (costs)"].startswith(f"{path}: damaged: ")
    assert "(not in the report: first: csplade (costs), first: bm25+csplade (costs))" in "".join(found.problems)
    assert "csplade (costs)</strong> failed: " in (tmp_path / "report" / "report.html").read_text()


@pytest.mark.parametrize("content", [b"\n", b"{\n", b'{"query": "q000"}\n', b"\xff\n"])
def test_damaged_explanations_leave_everything_else(content: bytes, result: Result, tmp_path: Path) -> None:
    found = result.collections["first"]
    path = found.plan.details["csplade"][1].folder / "explanations.jsonl"
    path.write_bytes(path.read_bytes() + content)
    write_reports(result, tmp_path / "report")
    assert set(found.problems) == {"csplade (explain)"}
    assert found.problems["csplade (explain)"].startswith(f"{path}:6: damaged: ")
    assert f"; remove {path.parent} to have it made again" in found.problems["csplade (explain)"]
    assert "- csplade (explain) failed: " in (tmp_path / "report" / "report.md").read_text()


def test_a_ranking_that_is_gone_loses_its_system_alone(result: Result, tmp_path: Path) -> None:
    result.collections["first"].plan.run("csplade").unlink()
    write_reports(found := again(result), tmp_path / "report")
    after = found.collections["first"]
    assert set(after.problems) == {"csplade"} and len(after.scores) == len(after.plan.systems) - 1


def test_a_file_that_goes_while_the_report_is_written_loses_its_system_alone(result: Result, tmp_path: Path) -> None:
    (path := result.collections["first"].plan.run("csplade")).unlink()
    write_reports(result, tmp_path / "report")
    (problem,) = result.collections["first"].problems.items()
    assert problem == ("csplade", f"{path}: cannot be read or written: No such file or directory; check the path")
    assert '<span class="name">bm25</span>' in (tmp_path / "report" / "report.html").read_text()


@given(st.one_of(st.binary(max_size=60), st.text(st.sampled_from('{}[]":,01.e-nulqr ')).map(str.encode)))
def test_any_bytes_are_details_or_one_line(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "details"
        path.write_bytes(content)
        for read in (read_measured, lambda path: read_explanations(path, ())):
            try:
                read(path)
            except DataError as error:
                assert str(error).startswith(str(path)) and str(error).isprintable() and len(str(error)) < 500


def test_what_nobody_expected_is_contained_and_an_interruption_is_not() -> None:
    problems: dict[str, str] = {}
    for owner, error in (("one", DataError("a:1: b: c; d")), ("two", KeyError("e\nf"))):
        with contained(problems, owner):
            raise error
    assert problems == {"one": "a:1: b: c; d", "two": "unexpected KeyError: 'e\\nf'"}
    with pytest.raises(KeyboardInterrupt), contained(problems, "three"):
        raise KeyboardInterrupt
    assert "three" not in problems
