"""Real Lucene indexes: nothing is lost unnoticed, every term survives, and an explanation adds up to the score."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from pyserini_llm_sparse.errors import DataError, ResourceError, RunError
from pyserini_llm_sparse.indexing import lucene
from pyserini_llm_sparse.modelling.spec import EncodingSpec, sidecar
from pyserini_llm_sparse.modelling.terms import TermVocabulary
from tests.commands import Pyserini
from tests.integration.conftest import read_vectors

pytestmark = [pytest.mark.end_to_end, pytest.mark.usefixtures("forked_children")]

NASTY = [
    "", " ", "\t", "\n", "\r\n", "\x00", "\x01", "\x08", "\x0b", "\x0c", "\x1b", "\x1c", "\x1f", "\x7f", "\x85", "\xa0",
    "\u00ad", "\u1680", "\u180e", "\u2003", "\u2007", "\u2028", "\u202f", "\u200b", "\u200c", "\u200d", "\u3000",
    "\ufeff", "\ufeffa", "\uffff", "\ud800", "\udfff", "a\ud800", "a b", " a", "a ", "a\tb", "Ġ", "Ġthe", "▁", "▁the",
    "Ċ", "ĉ", "the", "The", "THE", "é", "e\u0301", "東京", "👩‍🚀", "ß", "İ", "ı", "<|end_of_text|>", "<0x0A>", "##ing",
    "[SEP]", '"', "'", "\\", "\\u0120", "a,b", "a|b", "a^2", "f:t", "*", "?", "~", "(", "+a", "-a", "␛", "␛20;", "␛#3;",
    "x" * 255, "x" * 256, "x" * 600, "👩" * 127, "👩" * 128, "0", "1.5", "-1", "null", "NaN",
]  # fmt: skip


@pytest.fixture(scope="module")
def nasty_index(tmp_path_factory: pytest.TempPathFactory) -> tuple[TermVocabulary, Path]:
    """One document a token, with an impact of its own; the first line of the folder's spec is of no interest."""
    folder = tmp_path_factory.mktemp("nasty")
    vocabulary = TermVocabulary(NASTY)
    (folder / "vectors").mkdir()
    with (folder / "vectors" / "all.jsonl").open("w", encoding="utf-8") as stream:
        for number, term in enumerate(vocabulary.terms):
            record = {"id": f"n{number}", "contents": "", "vector": {term: number + 1, "everywhere": 7}}
            stream.write(json.dumps(record) + "\n")
    lucene.index(folder / "vectors", folder / "index", threads=1)
    return vocabulary, folder / "index"


def test_every_term_survives_lucene_whole_and_alone(nasty_index: tuple[TermVocabulary, Path]) -> None:
    vocabulary, index = nasty_index
    with lucene.LuceneIndex(index) as opened:
        for number, term in enumerate(vocabulary.terms):
            hits = opened.search({term: 3}, k=10)
            assert [(hit.document_id, hit.score) for hit in hits] == [(f"n{number}", 3.0 * (number + 1))], repr(term)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="who takes signals is known from /proc")
def test_java_leaves_signals_to_python(index: Path, pyserini: Pyserini) -> None:
    """It would end the process without a chance to remove half-written files."""
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from pyserini_llm_sparse.indexing import lucene\n"
        "status = lambda: Path('/proc/self/status').read_text().partition('SigCgt:')[2].split()[0]\n"
        "with lucene.LuceneIndex(sys.argv[1]): print(int(status(), 16) >> 14 & 1)\n"
    )
    assert pyserini("-c", code, index).stdout.splitlines()[-1] == "0"


def test_every_term_passes_pyserinis_own_reader(nasty_index: tuple[TermVocabulary, Path], pyserini: Pyserini) -> None:
    vocabulary, index = nasty_index
    code = (
        "import json, sys\n"
        "from pyserini.search.lucene import LuceneImpactSearcher\n"
        "print(json.dumps(sorted(LuceneImpactSearcher._compute_idf(sys.argv[1]))))\n"
    )
    terms = json.loads(pyserini("-c", code, index).stdout.splitlines()[-1])
    assert set(terms) == {*vocabulary.terms, "everywhere"}


def test_an_explanation_adds_up_to_lucenes_score_exactly(vectors: Path, index: Path) -> None:
    documents = read_vectors(vectors)
    query = dict(list(documents["d3"].items())[::3]) | {"in no document": 5}
    with lucene.LuceneIndex(index) as opened:
        best = opened.search(query, k=5)
        for hit in best:
            shared = opened.explain(query, hit.document_id)
            assert sum(part.score for part in shared) == opened.lucene_score(query, hit.document_id)
            assert sum(part.score for part in shared) == pytest.approx(hit.score, rel=1e-5)
            assert [part.score for part in shared] == sorted((part.score for part in shared), reverse=True)
            vector = documents[hit.document_id]
            assert {part.term: part.document_impact for part in shared} == {
                term: vector[term] for term in query if term in vector
            }


def test_a_batch_is_searched_as_one_by_one(vectors: Path, index: Path) -> None:
    documents = read_vectors(vectors)
    queries = {name: documents[name] for name in ("d1", "d2", "d3")}
    with lucene.LuceneIndex(index) as opened:
        assert opened.search_batch(queries, k=7, threads=2) == {
            name: opened.search(query, k=7) for name, query in queries.items()
        }


def test_explaining_a_document_that_is_not_there_is_an_error(index: Path) -> None:
    with lucene.LuceneIndex(index) as opened, pytest.raises(DataError, match="'stranger' is not in the index"):
        opened.explain({"a": 1}, "stranger")


def test_a_folder_without_an_index_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="no Lucene index there"):
        lucene.LuceneIndex(tmp_path)


def test_indexing_counts_documents_and_brings_the_spec(vectors: Path, tmp_path: Path) -> None:
    report = lucene.index(vectors, tmp_path / "index", threads=2, log=tmp_path / "log")
    assert (report.encoded, report.empty, report.indexed) == (30, 1, 29)
    assert lucene.read_index_spec(tmp_path / "index") == EncodingSpec.load(sidecar(vectors))
    assert "Indexing Complete" in (tmp_path / "log").read_text(encoding="utf-8")


def test_documents_that_the_indexer_loses_are_named(tmp_path: Path) -> None:
    # An impact that overflows Java's int is dropped silently, and the document with it.
    (tmp_path / "vectors").mkdir()
    rows = [{"id": "kept", "vector": {"a": 1}}, {"id": "lost", "vector": {"a": 3_000_000_000}}]
    text = "".join(json.dumps({**row, "contents": ""}) + "\n" for row in rows)
    (tmp_path / "vectors" / "all.jsonl").write_text(text, encoding="utf-8")
    with pytest.raises(RunError, match="1 documents are missing from the index: lost"):
        lucene.index(tmp_path / "vectors", tmp_path / "index")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"id": "1", "vector": {"a": 1}}\n{"id": "2", "vec', r"all.jsonl:2: not a vector"),
        ('{"id": "1"}\n', r"all.jsonl:1: not a vector: KeyError\('vector'\)"),
        ('{"id": "1", "vector": {}}\n{"id": "1", "vector": {}}\n', r"all.jsonl:2: document '1' stands here twice"),
        ('{"id": "1", "vector": {"a": NaN}}\n', r"all.jsonl:1: not a vector"),
    ],
)
def test_broken_vectors_are_found_before_indexing(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "vectors").mkdir()
    (tmp_path / "vectors" / "all.jsonl").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        lucene.index(tmp_path / "vectors", tmp_path / "index")
    assert not (tmp_path / "index").exists()


def test_an_empty_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="no vectors to index"):
        lucene.index(tmp_path, tmp_path / "index")
