"""Training examples from a BEIR directory: its judged queries with their relevant documents."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

from pyserini_llm_sparse.errors import DataError
from pyserini_llm_sparse.files.records import RecordProblem
from pyserini_llm_sparse.files.trec import qrels_file, read_qrels
from pyserini_llm_sparse.training.data.examples import Example
from pyserini_llm_sparse.training.data.source_formats import checked
from pyserini_llm_sparse.training.data.texts_by_id import Neighbours

_logger = logging.getLogger(__name__)


def read_judged_examples(folder: Path, split: str) -> Iterator[Example]:
    """Yield an example for each query with a relevant document, in the order of the judgements.

    Documents judged 0 or less are its negatives.

    Raises:
        ResourceError: A file is missing.
        DataError: A line of the judgements is no judgement, or names a query or document that is not there.
    """
    path = qrels_file(folder, split)
    without = 0
    with Neighbours(folder, str(path)) as neighbours:
        for query_id, grades in read_qrels(path).items():
            relevant = tuple(document for document, grade in grades.items() if grade > 0)
            others = tuple(document for document, grade in grades.items() if grade <= 0)
            if not relevant:
                without += 1
                continue
            try:
                yield Example(
                    query=checked(neighbours.query(query_id), f"query {query_id!r}"),
                    positives=tuple(_document(neighbours, name) for name in relevant),
                    negatives=tuple(_document(neighbours, name) for name in others),
                    query_id=query_id,
                    positive_ids=relevant,
                    negative_ids=others,
                    source=f"{path}: query {query_id}",
                )
            except RecordProblem as problem:
                raise DataError(
                    f"{path}: query {query_id}: {problem.what}: {problem.why}; {problem.remedy}"
                ) from problem
    if without:
        _logger.warning("%s: %d queries have no relevant document and make no example", path, without)


def _document(neighbours: Neighbours, identifier: str) -> str:
    return checked(neighbours.document(identifier), f"document {identifier!r}")
