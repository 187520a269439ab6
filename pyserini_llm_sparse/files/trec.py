"""Relevance judgements and run files: BEIR's and TREC's columns."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from pyserini_llm_sparse.errors import DataError, ResourceError, at
from pyserini_llm_sparse.files.lines import COMPRESSIONS, read_lines
from pyserini_llm_sparse.files.records import excerpt

_GRADE = re.compile(r"-?\d")
_ITERATION = re.compile(r"[Qq]?[\d.]+")


def qrels_file(folder: str | Path, split: str) -> Path:
    """Return the qrels of a split of a BEIR folder.

    Raises:
        ResourceError: There are none; those that exist are named.
    """
    qrels = Path(folder) / "qrels"
    for suffix in ("", *COMPRESSIONS):
        if (path := qrels / f"{split}.tsv{suffix}").is_file():
            return path
    found = ", ".join(sorted(path.name.partition(".tsv")[0] for path in qrels.glob("*.tsv*"))) or "none"
    raise ResourceError(f"{qrels / split}.tsv: no such qrels: splits found: {found}; name one of them")


def read_qrels(path: str | Path) -> dict[str, dict[str, int]]:
    """Return ``{query id: {document id: grade}}``; of a pair that occurs twice, the last grade counts.

    A line has BEIR's columns, query id, document id and grade, with or without a header, or TREC's, with an iteration
    after the query id that is not used.

    Raises:
        ResourceError: The file cannot be read.
        DataError: A line is no judgement; file and line are named.
    """
    path = Path(path)
    qrels: dict[str, dict[str, int]] = {}
    iterations: set[str] = set()
    for number, line in read_lines(path):
        if line is not None and not line.strip():
            continue
        try:
            query, *iteration, document, grade = (line or b"").decode("utf-8").split()
            value = float(grade)
            if len(iteration) > 1 or not value.is_integer():
                raise ValueError(line)
        except ValueError as error:
            if number == 1 and line is not None and line.split()[:1] in ([b"query-id"], [b"query_id"], [b"qid"]):
                continue
            raise DataError(
                f"{at(path, number)}: not a judgement: query id, document id and a whole number as grade are expected, "
                "or TREC's four columns; correct or remove the line"
            ) from error
        iterations.update(iteration)
        qrels.setdefault(query, {})[document] = int(value)
    if not qrels:
        raise DataError(f"{path}: no judgements: the file holds no records; check the path")
    _require_documents(path, {document for grades in qrels.values() for document in grades}, iterations)
    return qrels


def _require_documents(path: Path, documents: set[str], iterations: set[str]) -> None:
    """Refuse judgements of another layout, whose third of four columns holds grades and whose second the documents.

    Raises:
        DataError: All documents have names like grades, and the iterations have more names, or names of another kind.
    """
    are_grades = all(_GRADE.fullmatch(document) for document in documents)
    are_names = any(not _ITERATION.fullmatch(name) for name in iterations)
    if are_grades and iterations and (are_names or len(iterations) > len(documents)):
        raise DataError(
            f"{path}: judgements of another layout: the third column holds grades, not documents; write query id, "
            "document id and grade, or query id, 0, document id and grade"
        )


class Ranked(NamedTuple):
    """A line of a run file: a document in the ranking of a query."""

    query: str
    document: str
    rank: int
    score: float


def read_run(path: Path) -> Iterator[Ranked]:
    """Yield the lines of a run file, in their order; empty ones are left out.

    Each has six columns with white space between them: query id, ``Q0``, document id, rank, score and tag. The rank is
    a whole number and the score a finite one; the second and the last column are not used.

    Raises:
        ResourceError: The file cannot be read.
        DataError: A line is of another shape, which is named with its number, or there is none.
    """
    is_empty = True
    for number, line in read_lines(path):
        if line is not None and not line.strip():
            continue
        try:
            query, _, document, rank, score, _ = (line or b"").split()
            ranked = Ranked(query.decode(), document.decode(), int(rank), float(score))
            if not math.isfinite(ranked.score):
                raise ValueError(score)
        except ValueError as error:
            raise DataError(
                f"{at(path, number)}: not a line of a run: {_misshape(line)}; write query id, Q0, document id, rank, "
                "score and tag in each line"
            ) from error
        is_empty = False
        yield ranked
    if is_empty:
        raise DataError(f"{path}: no ranking: the file holds no lines of a run; check what should have written it")


def _misshape(line: bytes | None) -> str:
    """Return why a line is none of a run."""
    if line is None:
        return "it is longer than any ids are"
    columns = line.split()
    try:
        shown = [excerpt(ascii(column.decode())) for column in columns]
    except UnicodeDecodeError:
        return "it is not UTF-8"
    if len(columns) != 6:
        return f"it has {len(columns)} column{'' if len(columns) == 1 else 's'}, not six"
    try:
        int(columns[3])
    except ValueError:
        return f"its rank {shown[3]} is not a whole number"
    return f"its score {shown[4]} is not a finite number"


def run_lines(identifier: str, hits: Sequence[tuple[str, float]], tag: str) -> bytes:
    """Return a query's lines of a TREC run: ``qid Q0 docid rank score tag``, six decimals as Pyserini writes."""
    return "".join(
        f"{identifier} Q0 {document} {rank} {score:.6f} {tag}\n" for rank, (document, score) in enumerate(hits, start=1)
    ).encode()


def msmarco_lines(identifier: str, hits: Sequence[tuple[str, float]]) -> bytes:
    """Return a query's lines of an MS MARCO run: query id, document id and rank, with tabs between them."""
    return "".join(f"{identifier}\t{document}\t{rank}\n" for rank, (document, _) in enumerate(hits, start=1)).encode()
