"""The details of a system as its steps leave them: measurements of single queries, and explanations of scores."""

from __future__ import annotations

from collections.abc import Container
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, NonNegativeInt, ValidationError

from pyserini_llm_sparse.errors import DataError, at, one_line
from pyserini_llm_sparse.files.lines import read_lines

Finite = Annotated[int | float, Field(allow_inf_nan=False)]


class Measured(BaseModel):
    """The measurements of a system, all None if there are none.

    Attributes:
        latency_ms: Milliseconds of each query, by its id.
        postings: Of the index.
        model_bytes: Size of the weights.
    """

    latency_ms: dict[str, Annotated[Finite, Field(ge=0)]] | None = None
    postings: NonNegativeInt | None = None
    model_bytes: NonNegativeInt | None = None


class ExplainedDocument(BaseModel):
    """A document's score, term by term.

    Attributes:
        id: Of the document.
        rank: Of the document.
        score: The sum of all products.
        shared: How many terms query and document share.
        contributions: The largest products: term, weight in the query, weight in the document, and 1 for a term of
            the query's own text.
        rest: The sum of the other products.
    """

    id: str
    rank: int
    score: Finite
    shared: int
    contributions: list[tuple[str, Finite, Finite, int]]
    rest: Finite


class Explanation(BaseModel):
    """An explanation of a query's ranking: its terms, and the scores of its best documents.

    Attributes:
        query: Its id.
        term_count: How many terms it has.
        terms: The heaviest, with their weights, and 1 for a term of its own text.
        documents: Those whose scores are explained.
    """

    query: str
    term_count: int
    terms: list[tuple[str, Finite, int]]
    documents: list[ExplainedDocument]


def read_measured(path: Path) -> Measured:
    """Return the measurements in a step's file.

    Raises:
        ResourceError: It cannot be read.
        DataError: It is damaged.
    """
    text = b"\n".join(line or b"" for _, line in read_lines(path))
    try:
        return Measured.model_validate_json(text)
    except ValidationError as error:
        raise _damaged(path, None, error) from error


def read_explanations(path: Path, queries: Container[str]) -> dict[str, dict[str, Any]]:
    """Return the explanations in a step's file, as plain values by the query's id, of some queries.

    Raises:
        ResourceError: It cannot be read.
        DataError: It is damaged.
    """
    found = {}
    for number, line in read_lines(path):
        try:
            explanation = Explanation.model_validate_json(line or b"")
        except ValidationError as error:
            raise _damaged(path, number, error) from error
        if explanation.query in queries:
            found[explanation.query] = explanation.model_dump(exclude={"query"})
    return found


def _damaged(path: Path, line: int | None, error: ValidationError) -> DataError:
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"]))
    why = one_line(ValueError(f"{where}: {first['msg']}" if where else first["msg"]))
    return DataError(f"{at(path, line)}: damaged: {why}; remove {path.parent} to have it made again")
