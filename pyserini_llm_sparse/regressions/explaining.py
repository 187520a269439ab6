"""Explains the rankings of a sparse encoder: the terms of each query, and its best documents' scores term by term.

    python -m pyserini_llm_sparse.regressions.explaining --encoder csplade --index INDEX --topics TOPICS.tsv \\
        --qrels QRELS --run RUN.txt --output FILE.jsonl
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from pyserini_llm_sparse.explanations import term_impacts
from pyserini_llm_sparse.formats.qrels import read_qrels
from pyserini_llm_sparse.formats.runs import read_run
from pyserini_llm_sparse.formats.topics import Topic, read_topics
from pyserini_llm_sparse.formats.writers import atomic_file

DOCUMENTS = 3  # of a query, from the top
TERMS = 40  # of a query, the heaviest
CONTRIBUTIONS = 12  # of a document, the largest


def main() -> None:
    """Write a line for each query."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", required=True)
    for name in ("--index", "--topics", "--qrels", "--run", "--output"):
        parser.add_argument(name, type=Path, required=True)
    arguments = parser.parse_args()
    from pyserini_llm_sparse import SparseEncoder
    from pyserini_llm_sparse.lucene import LuceneIndex

    encoder, topics = SparseEncoder.load(arguments.encoder), read_topics(arguments.topics)
    qrels, ranked = read_qrels(arguments.qrels), ranked_documents(arguments.run)
    with LuceneIndex(arguments.index) as index, atomic_file(arguments.output) as stream:
        for topic in topics:
            chosen = chosen_documents(ranked.get(topic.id, []), qrels.get(topic.id, {}))
            stream.write(orjson.dumps(explained(encoder, index, topic, chosen)) + b"\n")


def explained(encoder: Any, index: Any, topic: Topic, documents: Mapping[str, int]) -> dict[str, Any]:
    """Return a query's terms, and the scores of documents.

    Args:
        encoder: The sparse encoder.
        index: The open index.
        topic: The query.
        documents: Ids with their ranks.
    """
    found = term_impacts(encoder, topic.text, "query")
    own = {entry.term for entry in found if entry.own}
    impacts = {entry.term: entry.impact for entry in found}
    scores = []
    for name, rank in documents.items():
        shared = index.explain(impacts, name)
        scores.append({
            "id": name,
            "rank": rank,
            "score": sum(each.score for each in shared),
            "shared": len(shared),
            "contributions": [
                [each.term, each.query_impact, each.document_impact, int(each.term in own)]
                for each in shared[:CONTRIBUTIONS]
            ],
            "rest": sum(each.score for each in shared[CONTRIBUTIONS:]),
        })  # fmt: skip
    terms = [[entry.term, entry.impact, int(entry.own)] for entry in found[:TERMS]]
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
