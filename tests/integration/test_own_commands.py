"""Our own commands do the same job as Pyserini's, and their vectors are found the same by everyone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from pyserini_llm_sparse.encoder import SparseEncoder
from pyserini_llm_sparse.modelling.spec import EncodingSpec
from tests.commands import Pyserini
from tests.integration.conftest import read_run, read_vectors

pytestmark = pytest.mark.end_to_end

Run = dict[str, list[tuple[str, float]]]


@dataclass(frozen=True)
class Outcome:
    """What a command printed and its exit code."""

    code: int
    out: str
    err: str


PROGRAM = """
import contextlib, io, json, os, sys
from pyserini_llm_sparse.cli.app import main

outcomes = {}
for name, (variables, arguments) in json.load(open(sys.argv[1])).items():
    os.environ.update(variables)
    out, err = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(arguments)
    for variable in variables:
        del os.environ[variable]
    out.flush()
    outcomes[name] = code, out.buffer.getvalue().decode(), err.getvalue()
json.dump(outcomes, open(sys.argv[2], "w"))
"""


@pytest.fixture(scope="module")
def run_ours(pyserini: Pyserini, model: Path) -> Callable[..., dict[str, Outcome]]:
    """Runs commands one after the other in one process: starting Python, torch and Java takes longer than the work."""

    def run(commands: dict[str, list[object]], environments: dict[str, dict[str, str]] | None = None):
        given, answers = pyserini.folder / "commands.json", pyserini.folder / "outcomes.json"
        words = {name: [str(word) for word in command] for name, command in commands.items()}
        given.write_text(json.dumps({name: ((environments or {}).get(name, {}), words[name]) for name in words}))
        pyserini("-c", PROGRAM, given, answers)
        return {name: Outcome(*outcome) for name, outcome in json.loads(answers.read_text()).items()}

    return run


@pytest.fixture(scope="module")
def first(run_ours: Callable[..., dict[str, Outcome]], pyserini: Pyserini, corpus: Path, model: Path, topics: Path):
    """From the documents to a run, and queries for others; the empty document is skipped."""
    folder, encoder = pyserini.folder, ["--encoder", model]
    queries = ["encode-queries", *encoder, "--topics", topics, "--output"]
    return run_ours(
        {
            "encode": ["encode", *encoder, "--corpus", corpus, "--output", folder / "own_vectors", "--fields",
                       "title,text", "--batch-size", 8, "--window-size", 10, "--on-error", "skip"],
            "index": ["index", "--input", folder / "own_vectors", "--index", folder / "own_index", "--threads", 2],
            "search": ["search", *encoder, "--index", folder / "own_index", "--topics", topics, "--output",
                       folder / "own_run.txt", "--threads", 2],
            "pyserini": [*queries, folder / "queries.jsonl"],
            "anserini-json": [*queries, folder / "queries.anserini-json", "--format", "anserini-json"],
            "anserini-tsv": [*queries, folder / "queries.anserini-tsv", "--format", "anserini-tsv"],
        }
    )  # fmt: skip


@pytest.fixture(scope="module")
def own_vectors(first: dict[str, Outcome], pyserini: Pyserini) -> Path:
    assert first["encode"].code == 0, first["encode"].err
    assert "1 record without text left out" in first["encode"].err
    return pyserini.folder / "own_vectors"


@pytest.fixture(scope="module")
def own_index(first: dict[str, Outcome], pyserini: Pyserini) -> Path:
    assert "indexed 29 documents, all 29 that have terms" in first["index"].err
    return pyserini.folder / "own_index"


@pytest.fixture(scope="module")
def own_run(first: dict[str, Outcome], pyserini: Pyserini) -> Run:
    assert first["search"].code == 0, first["search"].err
    return read_run(pyserini.folder / "own_run.txt")


@pytest.fixture(scope="module")
def second(
    run_ours: Callable[..., dict[str, Outcome]], pyserini: Pyserini, own_index: Path, own_run: Run, model: Path,
    topics: Path, queries: dict[str, str],
) -> dict[str, Outcome]:  # fmt: skip
    """What one does with a run, and what is refused."""
    other = Path(shutil.copytree(own_index, pyserini.folder / "other_index"))
    EncodingSpec.load(own_index).replace(logit_scale=0.5).save(other)
    search = ["search", "--encoder", model, "--topics", topics, "--hits", 2, "--index"]
    explain = ["explain", "--encoder", model, "--index", own_index, "--query", queries["1"], "--docid"]
    best = own_run["1"][0][0]
    return run_ours(
        {
            "msmarco": [*search, own_index, "--output-format", "msmarco"],
            "mismatch": [*search, other],
            "allowed": [*search, other],
            "explained": [*explain, best, "--json"],
            "explanation": [*explain, best, "--top", 3],
            "no document": [*explain, "no"],
            "doctor": ["doctor", "--encoder", model, "--json"],
            "ill": ["doctor", "--encoder", "./no-such-model"],
        },
        {"allowed": {"PYSERINI_LLM_SPARSE_ALLOW_MISMATCH": "logit_scale"}},
    )


def same_ranking(run: Run, other: Run) -> bool:
    """Whether all documents have the same scores, up to how Anserini nudges equal ones apart."""
    return run.keys() == other.keys() and all(
        dict(run[query]) == pytest.approx(dict(other[query]), rel=1e-5) for query in run
    )


def test_our_encode_does_the_same_job_as_pyserinis(own_vectors: Path, vectors: Path) -> None:
    ours, theirs = read_vectors(own_vectors), read_vectors(vectors)
    assert [name for name in theirs if name != "nothing"] == list(ours)
    for name, vector in ours.items():
        assert vector.keys() ^ theirs[name].keys() == set() or all(
            {**vector, **theirs[name]}[term] == 1 for term in vector.keys() ^ theirs[name].keys()
        )
        # The last bit of a float may depend on the batch; rounding makes it one at most.
        assert vector == pytest.approx({term: theirs[name].get(term, 0) for term in vector}, abs=1)
    skipped = json.loads((own_vectors.parent / "own_vectors.skipped.jsonl").read_text())
    assert (skipped["id"], skipped["what"]) == ("nothing", "empty text")


def test_our_search_is_the_dot_product_over_the_files(
    own_run: Run, own_vectors: Path, model: Path, queries: dict[str, str]
) -> None:
    documents = read_vectors(own_vectors)
    encoder = SparseEncoder.load(str(model), device="cpu")
    for query, impacts in zip(queries, encoder.query_impacts(list(queries.values())), strict=True):
        products = {
            name: sum(impact * vector.get(term, 0) for term, impact in impacts.items())
            for name, vector in documents.items()
        }
        expected = {name: product for name, product in products.items() if product}
        assert dict(own_run.get(query, [])) == pytest.approx(expected, rel=1e-5)


def test_pyserinis_search_finds_the_same(
    own_run: Run, own_index: Path, model: Path, search: Callable[..., Run]
) -> None:
    assert same_ranking(search("--index", own_index, "--encoder", f"csplade:{model}"), own_run)


def test_pyserini_searches_with_our_encoded_queries_and_without_a_model(
    own_run: Run, own_index: Path, search: Callable[..., Run], pyserini: Pyserini
) -> None:
    # Pyserini by itself drops terms that every document has, unless it is told not to.
    run = search("--index", own_index, "--encoder", pyserini.folder / "queries.jsonl", "--min-idf", -1)
    assert same_ranking(run, own_run)


@pytest.mark.parametrize(("reader", "kind"), [("JsonString", "anserini-json"), ("TsvString", "anserini-tsv")])
def test_plain_anserini_searches_with_our_encoded_queries(
    reader: str, kind: str, line: int, own_run: Run, own_index: Path, pyserini: Pyserini
) -> None:
    if line != 1:
        pytest.skip("Anserini 2 asks the network for a local index, too")
    output = pyserini.folder / f"run.{kind}.txt"
    program = (
        "import subprocess, sys, glob, os, pyserini\n"
        "from pyserini_llm_sparse.indexing.lucene import jdk\n"
        "jar = glob.glob(os.path.join(os.path.dirname(pyserini.__file__), 'resources', 'jars', 'anserini-*.jar'))[0]\n"
        "search = [str(jdk.find_jdk().java), '--add-modules', 'jdk.incubator.vector', '-cp', jar]\n"
        "sys.exit(subprocess.run([*search, 'io.anserini.search.SearchCollection', *sys.argv[1:]]).returncode)"
    )
    pyserini(
        "-c", program, "-index", own_index, "-topics", pyserini.folder / f"queries.{kind}", "-topicReader", reader,
        "-impact", "-pretokenized", "-hits", 1000, "-output", output,
    )  # fmt: skip
    assert same_ranking(read_run(output), own_run)


def test_a_run_goes_to_standard_output_in_the_form_that_is_asked_for(second: dict[str, Outcome], own_run: Run) -> None:
    printed, best = second["msmarco"].out.splitlines(), own_run["1"]
    assert printed[:2] == [f"1\t{best[0][0]}\t1", f"1\t{best[1][0]}\t2"]


def test_an_index_of_another_spec_is_refused_with_both_values_unless_allowed_by_name(
    second: dict[str, Outcome],
) -> None:
    assert second["mismatch"].code == 5
    assert second["mismatch"].out == ""
    assert "logit_scale is 1.0 here, 0.5 there" in second["mismatch"].err
    assert second["allowed"].code == 0
    assert second["allowed"].out


def test_the_explained_terms_add_up_to_lucenes_score_exactly(second: dict[str, Outcome], own_run: Run) -> None:
    assert second["explained"].code == 0, second["explained"].err
    found = json.loads(second["explained"].out)
    products = [each["query"] * each["document"] for each in found["contributions"]]
    assert [each["score"] for each in found["contributions"]] == products == sorted(products, reverse=True)
    assert sum(products) == found["score"] == found["lucene_score"]
    assert found["score"] == pytest.approx(own_run["1"][0][1], rel=1e-5)
    assert f"sum {found['score']:,}; Lucene's score {found['score']:,}" in second["explanation"].out


def test_a_document_that_is_not_in_the_index_cannot_be_explained(second: dict[str, Outcome]) -> None:
    assert second["no document"].code == 5
    assert "document 'no' is not in the index" in second["no document"].err


def test_the_doctor_finds_all_in_order_and_knows_the_hook(second: dict[str, Outcome]) -> None:
    states = {check["name"]: check["state"] for check in json.loads(second["doctor"].out)}
    required = ("Python", "hook", "Java", "Pyserini", "torch", "transformers", "encoder")
    assert {name: states[name] for name in required} == dict.fromkeys(required, "OK")


def test_the_doctor_says_what_is_missing_and_ends_with_code_3(second: dict[str, Outcome]) -> None:
    assert second["ill"].code == 3
    assert "FAIL encoder" in second["ill"].out
    assert "error: doctor: encoder: missing or broken" in second["ill"].err
