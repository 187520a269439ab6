"""The demo collection is sound, and the demo's script shows, runs and compares what it says."""

from __future__ import annotations

import importlib.util
import json
import shlex
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest

DEMO = Path(__file__).resolve().parents[2] / "examples" / "demo"


@pytest.fixture(scope="module")
def demo() -> ModuleType:
    """The demo's script as a module."""
    spec = importlib.util.spec_from_file_location("demo_run", DEMO / "run.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["demo_run"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def passages() -> list[dict[str, str]]:
    return [json.loads(line) for line in (DEMO / "corpus" / "corpus.jsonl").read_text("utf-8").splitlines()]


@pytest.fixture(scope="module")
def judgements() -> list[tuple[str, str, str, str]]:
    rows = [tuple(line.split()) for line in (DEMO / "qrels.txt").read_text("utf-8").splitlines()]
    return [(row[0], row[1], row[2], row[3]) for row in rows if len(row) == 4]


def test_there_are_at_least_150_passages_with_ids_of_their_own(passages: list[dict[str, str]]) -> None:
    assert len(passages) >= 150
    assert len({passage["id"] for passage in passages}) == len(passages)


def test_passages_hold_nothing_but_an_id_and_one_line_of_contents(passages: list[dict[str, str]]) -> None:
    # so `pyserini.encode input --fields text` and Anserini's JsonCollection read the same text from the same file
    assert all(passage.keys() == {"id", "contents"} for passage in passages)
    assert not any("\n" in passage["contents"] or " " in passage["id"] for passage in passages)


def test_passages_are_short(passages: list[dict[str, str]]) -> None:
    assert all(40 <= len(passage["contents"].split()) <= 90 for passage in passages)


def test_the_corpus_folder_holds_the_corpus_alone() -> None:
    # Lucene's indexer reads every file under the folder
    assert [path.name for path in (DEMO / "corpus").iterdir()] == ["corpus.jsonl"]


def test_there_are_28_reworded_and_12_exact_queries_as_the_readme_says(demo: ModuleType) -> None:
    queries = demo.read_queries()
    assert Counter(query[0] for query in queries) == {"1": 28, "2": 12}
    assert all(query.isdigit() and text.strip() for query, text in queries.items())
    assert "28 reworded" in (DEMO / "README.md").read_text("utf-8")


def test_judgements_name_existing_queries_and_passages_once(
    demo: ModuleType, passages: list[dict[str, str]], judgements: list[tuple[str, str, str, str]]
) -> None:
    assert {query for query, _, _, _ in judgements} == set(demo.read_queries())
    assert {document for _, _, document, _ in judgements} <= {passage["id"] for passage in passages}
    assert len({(query, document) for query, _, document, _ in judgements}) == len(judgements)
    assert {grade for _, _, _, grade in judgements} == {"0", "1", "2"}


def test_every_query_has_an_answer(demo: ModuleType, judgements: list[tuple[str, str, str, str]]) -> None:
    assert {query for query, _, _, grade in judgements if grade == "2"} == set(demo.read_queries())


@pytest.mark.parametrize(
    "words",
    [
        ["pyserini.search.lucene", "--index", "a folder/index", "--encoder", "csplade", "--impact", "--hits", "100"],
        ["pyserini.encode", "input", "--corpus", "c" * 60, "output", "--embeddings", "v", "encoder", "--encoder", "x"],
        ["pyserini_llm_sparse", "explain", "csplade", "why won't it; rm *", "passage"],
    ],
)
def test_a_shown_command_is_the_command_that_runs(demo: ModuleType, words: list[str]) -> None:
    shown = demo.command_shown(words)
    assert shlex.split(shown.replace("\\\n", " ")) == ["python", "-m", *words]


def test_a_shown_command_fits_the_width(demo: ModuleType) -> None:
    shown = demo.command_shown(["module", *["--option", "value" * 5] * 12])
    assert max(map(len, shown.splitlines())) <= demo.WIDTH


def test_sub_commands_begin_lines(demo: ModuleType) -> None:
    words = ["pyserini.encode", "input", "--corpus", "c", "--fields", "text", "output", "--embeddings", "v"]
    assert [line.split()[0] for line in demo.command_shown(words).splitlines()] == ["python", "input", "output"]


def test_the_demo_refuses_a_folder_that_it_did_not_make(demo: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "bm25").mkdir()
    with pytest.raises(demo.DemoError, match="nothing was overwritten") as caught:
        demo.prepare(tmp_path)
    assert caught.value.exit_code == 2


def test_a_second_demo_starts_from_empty_folders(demo: ModuleType, tmp_path: Path) -> None:
    demo.prepare(tmp_path / "work")
    (tmp_path / "work" / "csplade" / "run.txt").write_text("old", "utf-8")
    demo.prepare(tmp_path / "work")
    assert list((tmp_path / "work" / "csplade").iterdir()) == []


def test_a_step_that_fails_ends_the_demo_with_the_end_of_its_output(
    demo: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    session = demo.Session(tmp_path / "demo.log", total=1)
    with pytest.raises(demo.DemoError, match=r"json\.tool ended with exit code 2(.|\n)*usage") as caught:
        session.run("a step", ["json.tool", "--no-such-option"])
    assert caught.value.exit_code == 2
    assert "python -m json.tool --no-such-option" in capsys.readouterr().out


def test_a_step_keeps_its_output_in_the_log_and_its_time(demo: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "one.json").write_text("[1]", "utf-8")
    session = demo.Session(tmp_path / "demo.log", total=1)
    assert session.run("a step", ["json.tool", "--compact", tmp_path / "one.json"]) == "[1]\n"
    assert session.log.read_text("utf-8").endswith("one.json\n[1]\n")
    assert [title for title, _ in session.times] == ["a step"]


def test_a_query_without_results_counts_as_zero(demo: ModuleType) -> None:
    output = "ndcg_cut_10           \t101\t0.5000\nrecip_rank            \tall\t0.2500\n"
    scores = demo.parse_measures(output, ["101", "102"])
    assert scores["ndcg_cut_10"] == {"101": 0.5, "102": 0.0}
    assert scores["recip_rank"] == {"101": 0.0, "102": 0.0}


def test_output_without_measures_is_an_error_and_not_a_table_of_zeros(demo: ModuleType) -> None:
    with pytest.raises(demo.DemoError, match="printed no measures"):
        demo.parse_measures("\n", ["101"])


def test_the_tables_name_the_queries_that_each_system_wins(demo: ModuleType) -> None:
    queries = {"101": "one", "102": "two", "201": "three"}
    values = {"BM25": [0.0, 0.5, 1.0], "csplade": [1.0, 0.25, 1.0]}
    scores = {
        system: {measure: dict(zip(queries, listed, strict=True)) for measure in demo.MEASURES}
        for system, listed in values.items()
    }
    lines = list(demo.wins_table(scores["BM25"], scores["csplade"], queries))
    assert lines[0] == "csplade is better on 1 of 3 queries (nDCG@10)"
    assert lines[2].split() == ["0.000", "1.000", "101", "one"]
    assert lines[4] == "BM25 is better on 1 of 3 queries (nDCG@10)"
    assert lines[6].split() == ["0.500", "0.250", "102", "two"]
    assert lines[-1] == "Both are the same on 1."
    means = [line.split()[-1] for line in demo.measures_table(scores["BM25"], scores["csplade"])]
    assert means == ["recall@10", "0.500", "0.750", "0.250", "0.625", "1.000", "1.000"]


def test_the_explained_passage_is_the_answer_that_was_ranked_highest(demo: ModuleType, tmp_path: Path) -> None:
    run = tmp_path / "run.txt"
    run.write_text("118 Q0 black-hole 1 9 x\n118 Q0 white-dwarf 2 8 x\n118 Q0 red-giant 3 7 x\n", "utf-8")
    assert demo.best_answer("118", run) == "white-dwarf"
