"""Read relevance judgements: BEIR's three columns with a header, or TREC's four without."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from pyserini_llm_sparse.errors import DataError, ResourceError, at
from pyserini_llm_sparse.files.lines import COMPRESSIONS, read_lines


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

    Raises:
        ResourceError: The file cannot be read.
        DataError: A line is no judgement; file and line are named.
    """
    path = Path(path)
    qrels: dict[str, dict[str, int]] = {}
    for number, line in read_lines(path):
        if line is not None and not line.strip():
            continue
        try:
            query, *_, document, grade = (line or b"").decode("utf-8").split()
            value = float(grade)
            if not value.is_integer():
                raise ValueError(grade)
        except ValueError as error:
            if number == 1 and line is not None and line.split()[:1] in ([b"query-id"], [b"query_id"], [b"qid"]):
                continue
            raise DataError(
                f"{at(path, number)}: not a judgement: query id, document id and a whole number as grade are expected; "
                "correct or remove the line"
            ) from error
        qrels.setdefault(query, {})[document] = int(value)
    if not qrels:
        raise DataError(f"{path}: no judgements: the file holds no records; check the path")
    return qrels


class Ranked(NamedTuple):
    """A line of a run file: a document in the ranking of a query."""

    query: str
    document: str
    rank: int
    score: float


def read_run(path: Path) -> Iterator[Ranked]:
    """Yield the lines of a run file, in their order."""
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            query, _, document, rank, score, _ = line.split()
            yield Ranked(query, document, int(rank), float(score))


def run_lines(identifier: str, hits: Sequence[tuple[str, float]], tag: str) -> bytes:
    """Return a query's lines of a TREC run: ``qid Q0 docid rank score tag``, six decimals as Pyserini writes."""
    return "".join(
        f"{identifier} Q0 {document} {rank} {score:.6f} {tag}\n" for rank, (document, score) in enumerate(hits, start=1)
    ).encode()


def msmarco_lines(identifier: str, hits: Sequence[tuple[str, float]]) -> bytes:
    """Return a query's lines of an MS MARCO run: query id, document id and rank, with tabs between them."""
    return "".join(f"{identifier}\t{document}\t{rank}\n" for rank, (document, _) in enumerate(hits, start=1)).encode()
