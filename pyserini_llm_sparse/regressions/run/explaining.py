"""The command that explains rankings: the terms of each query, and its best documents' scores term by term.

    python -m pyserini_llm_sparse.regressions.run.explaining --encoder csplade --index INDEX --topics TOPICS.tsv \\
        --qrels QRELS --run RUN.txt --output FILE.jsonl

With ``--bm25`` in place of ``--encoder`` the scores are those of BM25.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import orjson

from pyserini_llm_sparse.files.atomic import atomic_file
from pyserini_llm_sparse.files.topics import Topic, read_topics
from pyserini_llm_sparse.files.trec import read_qrels, read_run
from pyserini_llm_sparse.indexing.lucene.bm25 import K1, B
from pyserini_llm_sparse.plugin import register
from pyserini_llm_sparse.regressions.run.measuring import bm25_searcher

DOCUMENTS = 3  # of a query, from the top
TERMS = 40  # of a query, the heaviest
CONTRIBUTIONS = 12  # of a document, the largest
DIGITS = 5  # of BM25's weights


class QueryTerm(NamedTuple):
    """A term of a query, its weight, and whether the query's text contains it."""

    term: str
    weight: float
    own: bool


class Shared(NamedTuple):
    """A term that query and document share, with its weights; their product is its part of the score."""

    term: str
    of_query: float
    of_document: float


class Explainer(Protocol):
    """Tells why a system scores as it does."""

    def terms(self, text: str) -> list[QueryTerm]:
        """Return what the system makes of a query, the heaviest first."""

    def shared(self, weights: Mapping[str, float], document: str) -> list[Shared]:
        """Return what a document shares with a query's terms, the largest product first."""


class ImpactExplainer:
    """Explains the scores of a sparse encoder: products of impacts."""

    def __init__(self, encoder: Any, index: Any) -> None:
        self._encoder, self._index = encoder, index

    def terms(self, text: str) -> list[QueryTerm]:
        """See `Explainer`."""
        return [QueryTerm(each.term, each.impact, each.own) for each in self._encoder.term_impacts(text, "query")]

    def shared(self, weights: Mapping[str, float], document: str) -> list[Shared]:
        """See `Explainer`."""
        found = self._index.explain({term: int(weight) for term, weight in weights.items()}, document)
        return [Shared(each.term, each.query_impact, each.document_impact) for each in found]


class Bm25Explainer:
    """Explains BM25: how often a term is in the query, or the weight that RM3 gives it, by its BM25 in the document."""

    def __init__(self, index: Path, k1: float, b: float, rm3: bool) -> None:
        from pyserini.index.lucene import LuceneIndexReader

        self._reader, self._searcher = LuceneIndexReader(str(index)), bm25_searcher(str(index), k1, b, rm3)
        self._options, self._rm3 = {"k1": k1, "b": b}, rm3

    def terms(self, text: str) -> list[QueryTerm]:
        """See `Explainer`."""
        own: Mapping[str, float] = Counter(self._reader.analyze(text))
        # Without feedback, because nothing was found, the query stays as it is.
        weights = (self._searcher.get_feedback_terms(text) if self._rm3 else None) or own
        found = [QueryTerm(term, round(weight, DIGITS), term in own) for term, weight in weights.items()]
        return sorted(found, key=lambda each: (-each.weight, each.term))

    def shared(self, weights: Mapping[str, float], document: str) -> list[Shared]:
        """See `Explainer`."""
        found = []
        for term, weight in weights.items():
            in_document = self._reader.compute_bm25_term_weight(document, term, analyzer=None, **self._options)
            if in_document:
                found.append(Shared(term, weight, round(in_document, DIGITS)))
        return sorted(found, key=lambda each: (-each.of_query * each.of_document, each.term))


def main() -> None:
    """Write a line for each query."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    system = parser.add_mutually_exclusive_group(required=True)
    system.add_argument("--encoder")
    system.add_argument("--bm25", action="store_true")
    parser.add_argument("--k1", type=float, default=K1)
    parser.add_argument("--b", type=float, default=B)
    parser.add_argument("--rm3", action="store_true")
    for name in ("--index", "--topics", "--qrels", "--run", "--output"):
        parser.add_argument(name, type=Path, required=True)
    arguments = parser.parse_args()
    register()  # a command of its own, also where the start-up hook did not run
    topics = read_topics(arguments.topics)
    qrels, ranked = read_qrels(arguments.qrels), ranked_documents(arguments.run)
    with opened(arguments) as explainer, atomic_file(arguments.output) as stream:
        for topic in topics:
            chosen = chosen_documents(ranked.get(topic.id, []), qrels.get(topic.id, {}))
            stream.write(orjson.dumps(explained(explainer, topic, chosen)) + b"\n")


@contextmanager
def opened(arguments: argparse.Namespace) -> Iterator[Explainer]:
    """Give what explains the system that the command names."""
    if arguments.bm25:
        yield Bm25Explainer(arguments.index, arguments.k1, arguments.b, arguments.rm3)
        return
    from pyserini_llm_sparse.encoder import SparseEncoder
    from pyserini_llm_sparse.indexing.lucene import LuceneIndex

    encoder = SparseEncoder.load(arguments.encoder)
    with LuceneIndex(arguments.index) as index:
        yield ImpactExplainer(encoder, index)


def explained(explainer: Explainer, topic: Topic, documents: Mapping[str, int]) -> dict[str, Any]:
    """Return a query's terms, and the scores of documents.

    Args:
        explainer: Of the system.
        topic: The query.
        documents: Ids with their ranks.
    """
    found = explainer.terms(topic.text)
    own = {each.term for each in found if each.own}
    weights = {each.term: each.weight for each in found}
    scores = []
    for name, rank in documents.items():
        shared = explainer.shared(weights, name)
        products = [each.of_query * each.of_document for each in shared]
        scores.append({
            "id": name,
            "rank": rank,
            "score": sum(products),
            "shared": len(shared),
            "contributions": [[*each, int(each.term in own)] for each in shared[:CONTRIBUTIONS]],
            "rest": sum(products[CONTRIBUTIONS:]),
        })  # fmt: skip
    terms = [[each.term, each.weight, int(each.own)] for each in found[:TERMS]]
    return {"query": topic.id, "term_count": len(found), "terms": terms, "documents": scores}


def ranked_documents(run: Path) -> dict[str, list[str]]:
    """Return the documents of a run file by query, best first."""
    found: dict[str, list[str]] = {}
    for line in read_run(run):
        found.setdefault(line.query, []).append(line.document)
    return found


def chosen_documents(ranked: Sequence[str], grades: Mapping[str, int]) -> dict[str, int]:
    """Return the first documents of a ranking and its first relevant one, with their ranks."""
    chosen = {name: rank for rank, name in enumerate(ranked[:DOCUMENTS], start=1)}
    for rank, name in enumerate(ranked, start=1):
        if grades.get(name, 0) > 0:
            chosen[name] = rank
            break
    return chosen


if __name__ == "__main__":
    main()
