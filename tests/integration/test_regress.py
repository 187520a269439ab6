"""A recipe runs Pyserini's commands once, goes on where it was killed, and one broken system loses nothing else."""

from __future__ import annotations

import html
import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import Pyserini

RECIPE = """\
title: A small comparison
collections:
  demo: {{corpus: {demo}/corpus, topics: {demo}/queries.tsv, qrels: {demo}/qrels.txt}}
systems:
  bm25: {{kind: bm25}}
  csplade: {{kind: csplade}}
  broken: {{kind: csplade, encoder: "csplade:{demo}"}}
  unreachable: {{kind: csplade, encoder: "csplade:nobody/has-this"}}
  both: {{kind: fusion, of: [bm25, csplade]}}
  lost: {{kind: fusion, of: [bm25, broken]}}
measures: [nDCG@10, R@100]
expected:
  demo:
    bm25: {{nDCG@10: 0.5645}}
    csplade: {{nDCG@10: {score}}}
"""


@pytest.fixture(scope="module")
def folder(pyserini: Pyserini, root: Path) -> Path:
    """A folder with a recipe, of whose systems one has no model."""
    folder = pyserini.folder / "regress"
    folder.mkdir()
    write(folder / "recipe.yaml", root)
    return folder


def write(path: Path, root: Path, score: float = 0.6556) -> Path:
    path.write_text(RECIPE.format(demo=root / "examples" / "demo", score=score), encoding="utf-8")
    return path


def regress(pyserini: Pyserini, recipe: Path, *options: object, code: int = 0) -> dict[str, Any]:
    done = pyserini.module("pyserini_llm_sparse", "regress", recipe, "--json", *options, check=False)
    assert done.returncode == code, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout)
    return {**found, "notes": done.stderr}


@pytest.fixture(scope="module")
def first(pyserini: Pyserini, folder: Path) -> dict[str, Any]:
    """What comes of the recipe."""
    return regress(pyserini, folder / "recipe.yaml", "--work", folder / "work", code=7)


def test_systems_are_scored_and_a_broken_one_loses_only_what_needs_it(first: dict[str, Any]) -> None:
    scores, problems = (first["collections"]["demo"][name] for name in ("scores", "problems"))
    assert list(scores) == ["bm25", "csplade", "both"]
    assert scores["bm25"]["nDCG@10"]["verdict"] == scores["csplade"]["nDCG@10"]["verdict"] == "OK"
    assert scores["csplade"]["nDCG@10"]["p_value"] < 1 and scores["bm25"]["nDCG@10"]["p_value"] is None
    assert scores["both"]["R@100"]["mean"] >= scores["bm25"]["R@100"]["mean"]
    assert set(problems) == {"broken", "unreachable", "lost"} and problems["broken"] == problems["lost"]
    assert "neither a directory nor in the hub's cache" in problems["unreachable"]
    assert all("\n" not in problem for problem in problems.values())
    assert first["notes"].strip().splitlines()[-1].startswith("pyserini-llm-sparse: ")
    assert "(no score for demo: broken, demo: lost)" in first["notes"]


def test_nothing_is_done_twice(first: dict[str, Any], pyserini: Pyserini, folder: Path) -> None:
    again = regress(pyserini, folder / "recipe.yaml", "--work", folder / "work", code=7)
    assert first["steps_done_now"] == 11 and again["steps_done_now"] == 0
    assert again["collections"] == first["collections"] and again["steps"] == first["steps"]
    assert all(step["seconds"] > 0 for step in first["steps"])
    assert all(step["peak_bytes"] > 1_000_000 for step in first["steps"] if step["command"]) or os.name == "nt"


def test_the_report_has_scores_costs_and_the_commands_that_ran(first: dict[str, Any], folder: Path) -> None:
    report = (folder / "work" / "recipe" / "report.md").read_text(encoding="utf-8")
    assert "| bm25 | 0.5645 [" in report and "] OK |" in report
    page = html.unescape((folder / "work" / "recipe" / "report.html").read_text(encoding="utf-8"))
    for step in first["steps"]:
        assert step["command"] in report and step["command"] in page
    costs = first["collections"]["demo"]["costs"]
    assert costs["csplade"]["postings"] > costs["bm25"]["postings"] > 0
    assert costs["csplade"]["model_bytes"] > 10_000_000 and costs["bm25"]["model_bytes"] is None
    for system in ("bm25", "csplade"):
        assert 0 < costs[system]["latency_p50_ms"] <= costs[system]["latency_p99_ms"]
    assert costs["both"]["index_bytes"] == costs["bm25"]["index_bytes"] + costs["csplade"]["index_bytes"]
    assert "- broken failed: " in report


def read_scores(run: Path) -> dict[tuple[str, str], tuple[int, float]]:
    """The rank and the score of each query's documents in a run file."""
    rows = [line.split() for line in run.read_text(encoding="utf-8").splitlines()]
    return {(query, document): (int(rank), float(score)) for query, _, document, rank, score, _ in rows}


def check_explanations(path: Path, ranked: dict[tuple[str, str], tuple[int, float]], error: float) -> None:
    """The explanations of the demo's queries add up to the scores of a run."""
    explained = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert len(explained) == 40
    for found in explained:
        assert found["documents"] and found["term_count"] >= len(found["terms"]) > 0
        weights = {term: weight for term, weight, _ in found["terms"]}
        for one in found["documents"]:
            assert all(weights.get(term, of_query) == of_query for term, of_query, _, _ in one["contributions"])
            total = sum(of_query * of_document for _, of_query, of_document, _ in one["contributions"]) + one["rest"]
            rank, score = ranked[found["query"], one["id"]]
            assert total == pytest.approx(one["score"], rel=error, abs=0) and one["rank"] == rank
            assert one["score"] == pytest.approx(score, rel=1e-4, abs=1e-4)  # four digits in the run


@pytest.mark.parametrize(("system", "error"), [("bm25", 1e-9), ("csplade", 0)])
def test_explanations_add_up_to_the_scores_of_the_run(
    first: dict[str, Any], folder: Path, system: str, error: float
) -> None:
    work = folder / "work" / "recipe" / "demo" / system
    check_explanations(work / "explain" / "explanations.jsonl", read_scores(work / "search" / "run.txt"), error)


def test_the_terms_of_feedback_explain_its_scores(pyserini: Pyserini, root: Path, tmp_path: Path) -> None:
    demo, index, run = root / "examples" / "demo", tmp_path / "index", tmp_path / "run.txt"
    topics, output = demo / "queries.tsv", tmp_path / "explanations.jsonl"
    bm25 = ("--bm25", "--k1", 0.8, "--b", 0.3, "--rm3")
    pyserini.module(
        "pyserini.index.lucene", "--collection", "JsonCollection", "--input", demo / "corpus", "--index", index,
        "--generator", "DefaultLuceneDocumentGenerator", "--threads", 1, "--storeDocvectors",
    )  # fmt: skip
    pyserini.module("pyserini.search.lucene", "--index", index, "--topics", topics, "--output", run, *bm25)
    pyserini.module(
        "pyserini_llm_sparse.regressions.run.explaining", *bm25, "--index", index, "--topics", topics,
        "--qrels", demo / "qrels.txt", "--run", run, "--output", output,
    )  # fmt: skip
    check_explanations(output, read_scores(run), 1e-9)
    terms = [term for line in output.read_text(encoding="utf-8").splitlines() for term in json.loads(line)["terms"]]
    assert {own for _, _, own in terms} == {0, 1}


def test_a_printed_command_can_be_pasted(first: dict[str, Any], pyserini: Pyserini, folder: Path) -> None:
    search = next(step["command"] for step in first["steps"] if "--impact --encoder csplade" in step["command"])
    run = folder / "work" / "recipe" / "demo" / "csplade" / "search" / "run.txt"
    before = run.read_bytes()
    run.unlink()
    pyserini(*search.split()[1:])
    assert run.read_bytes() == before


def test_a_changed_expectation_fails_without_running_anything(
    first: dict[str, Any], pyserini: Pyserini, folder: Path, root: Path
) -> None:
    wrong = write(folder / "wrong.yaml", root, 0.9)
    (folder / "wrong-work").mkdir()
    (folder / "work" / "recipe").rename(folder / "wrong-work" / "wrong")
    try:
        found = regress(pyserini, wrong, "--work", folder / "wrong-work", "--only", "csplade", code=6)
    finally:
        (folder / "wrong-work" / "wrong").rename(folder / "work" / "recipe")
    assert found["collections"]["demo"]["scores"]["csplade"]["nDCG@10"]["verdict"] == "FAIL"
    assert "not as expected: demo: csplade: nDCG@10 is 0.65" in found["notes"]


def test_a_missing_collection_is_one_line(pyserini: Pyserini, folder: Path) -> None:
    recipe = folder / "missing.yaml"
    recipe.write_text("title: t\ncollections: {none: {beir: none}}\nsystems: {bm25: {kind: bm25}}\n")
    done = pyserini.module("pyserini_llm_sparse", "regress", recipe, "--work", folder / "missing", check=False)
    assert done.returncode == 6
    assert f"{folder / 'none'}: no such corpus" in done.stderr and "(no score for none: bm25)" in done.stderr


@pytest.mark.skipif(os.name != "posix", reason="there is no SIGKILL on this system")
def test_killed_at_random_points_it_ends_with_the_same_scores(
    first: dict[str, Any], pyserini: Pyserini, folder: Path
) -> None:
    command = [
        str(pyserini.python), "-m", "pyserini_llm_sparse", "regress", str(folder / "recipe.yaml"), "--work",
        str(folder / "killed"), "--only", "bm25",
    ]  # fmt: skip
    chance, done_before = random.Random(5), 0
    for _ in range(2):
        process = subprocess.Popen(
            command, cwd=folder, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True
        )
        time.sleep(chance.uniform(2, 7))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        done_before = len(list((folder / "killed").rglob("step.json")))
    found = regress(pyserini, folder / "recipe.yaml", "--work", folder / "killed", "--only", "bm25")
    assert found["steps_done_now"] == 5 - done_before
    assert found["collections"]["demo"]["scores"]["bm25"] == {
        measure: {**score, "p_value": None}
        for measure, score in first["collections"]["demo"]["scores"]["bm25"].items()
    }  # fmt: skip
    assert not list((folder / "killed").rglob("*.unfinished"))
