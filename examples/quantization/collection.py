"""A test collection as Pyserini's commands read it, and the measures of exact scores on it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ir_measures
import numpy as np
from numpy.typing import NDArray

from benchmarks.beir_collections import MEASURES, prepare
from pyserini_llm_sparse.modelling.vectors import SparseVectors

DEPTH = 100

Run = dict[str, dict[str, float]]


@dataclass(frozen=True)
class Collection:
    """Documents, judged queries and judgements.

    Attributes:
        name: The folder's name.
        folder: Where `prepare` laid it out; everything that is made of it goes there, too.
        document_ids: The documents' ids.
        documents: Their texts, title and text joined.
        query_ids: The queries' ids.
        queries: Their texts.
        qrels: The judgements, as ir_measures reads them.
    """

    name: str
    folder: Path
    document_ids: tuple[str, ...]
    documents: tuple[str, ...]
    query_ids: tuple[str, ...]
    queries: tuple[str, ...]
    qrels: list[Any]

    @classmethod
    def load(cls, source: Path, folder: Path) -> Collection:
        """Lay a BEIR directory out in a folder, and read it."""
        prepare(source, folder)
        lines = (folder / "corpus" / "documents.jsonl").read_text(encoding="utf-8").splitlines()
        documents = [json.loads(line) for line in lines]
        topics = [line.split("\t", 1) for line in (folder / "beir-topics.tsv").read_text(encoding="utf-8").splitlines()]
        return cls(
            name=source.name,
            folder=folder,
            document_ids=tuple(document["id"] for document in documents),
            documents=tuple(document["contents"] for document in documents),
            query_ids=tuple(topic[0] for topic in topics),
            queries=tuple(topic[1] for topic in topics),
            qrels=list(ir_measures.read_trec_qrels(str(folder / "qrels.txt"))),
        )

    def measured(self, run: Any) -> dict[str, float]:
        """Return nDCG@10 and recall@100 of a run, of all judged queries."""
        found = ir_measures.calc_aggregate(MEASURES, self.qrels, run)
        return {str(measure): found[measure] for measure in MEASURES}

    def searched(self, queries: SparseVectors, documents: SparseVectors) -> dict[str, float]:
        """Return the measures of exact search: the products of all queries' and all documents' impacts."""
        return self.measured(ranking(self.query_ids, self.document_ids, queries.dot(documents)))


def ranking(query_ids: tuple[str, ...], document_ids: tuple[str, ...], scores: NDArray[np.int64]) -> Run:
    """Return the best `DEPTH` documents of each query as Anserini ranks them: equal scores by id, and none of 0.

    Args:
        query_ids: An id for each row.
        document_ids: An id for each column.
        scores: ``[queries, documents]``.

    Returns:
        For each query and document a value that falls with the rank, since tools break ties in their own ways.
    """
    places = np.argsort(np.argsort(np.array(document_ids), kind="stable"), kind="stable")
    run: Run = {}
    for query, row in zip(query_ids, scores, strict=True):
        best = [place for place in np.lexsort((places, -row))[:DEPTH] if row[place] > 0]
        run[query] = {document_ids[place]: float(DEPTH - rank) for rank, place in enumerate(best)}
    return run
