"""Training examples from a BEIR directory: its judged queries with their relevant documents."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from pyserini_llm_sparse.errors import ResourceError
from pyserini_llm_sparse.formats.lines import COMPRESSIONS, read_lines
from pyserini_llm_sparse.formats.records import RecordProblem, excerpt
from pyserini_llm_sparse.training.examples import Example
from pyserini_llm_sparse.training.source_formats import checked
from pyserini_llm_sparse.training.texts_by_id import Neighbours, neighbour

log = logging.getLogger("pyserini_llm_sparse")


class Judged(NamedTuple):
    """What is judged for a query: the first line that says so, and the ids of documents of either kind."""

    line: int
    relevant: list[str]
    others: list[str]


def qrels_file(folder: Path, split: str) -> Path:
    """Return the file of a split's judgements.

    Raises:
        ResourceError: There is none.
    """
    path = neighbour(folder / "qrels", (f"{split}.tsv",))
    if path is None:
        there = ", ".join(sorted(found.name.partition(".")[0] for found in (folder / "qrels").glob("*.tsv*")))
        raise ResourceError(
            f"{folder}: no qrels/{split}.tsv: the directory has the splits {there or '(none)'}; name one as "
            f"{folder}#SPLIT (compressed: {' or '.join(COMPRESSIONS)})"
        )
    return path


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
        for query_id, judged in _judgements(path).items():
            if not judged.relevant:
                without += 1
                continue
            try:
                yield Example(
                    query=checked(neighbours.query(query_id), f"query {query_id!r}"),
                    positives=tuple(_document(neighbours, name) for name in judged.relevant),
                    negatives=tuple(_document(neighbours, name) for name in judged.others),
                    query_id=query_id,
                    positive_ids=tuple(judged.relevant),
                    negative_ids=tuple(judged.others),
                    source=str(path),
                    line=judged.line,
                )
            except RecordProblem as problem:
                raise problem.rejected(str(path), judged.line).error() from problem
    if without:
        log.warning("%s: %d queries have no relevant document and make no example", path, without)


def _document(neighbours: Neighbours, identifier: str) -> str:
    return checked(neighbours.document(identifier), f"document {identifier!r}")


def _judgements(path: Path) -> dict[str, Judged]:
    """Read ``query-id<TAB>corpus-id<TAB>score`` with a header, or four columns as trec_eval has them."""
    found: dict[str, Judged] = {}
    for number, line in read_lines(path):
        fields = (line or b"").decode("utf-8", "replace").split()
        if line is not None and (not fields or (number == 1 and fields[-1] == "score")):
            continue
        if len(fields) == 4:
            del fields[1]
        try:
            query_id, document_id, grade = fields
            relevant = float(grade) > 0
        except ValueError as error:
            problem = RecordProblem(
                "not a judgement", f"it is not query-id, corpus-id, score: {excerpt(' '.join(fields))!r}",
                "correct or remove the line",
            )  # fmt: skip
            raise problem.rejected(str(path), number).error() from error
        judged = found.setdefault(query_id, Judged(number, [], []))
        (judged.relevant if relevant else judged.others).append(document_id)
    return found
