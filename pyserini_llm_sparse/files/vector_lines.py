"""The lines of files of vectors and of encoded queries, as Anserini and Pyserini read them."""

from __future__ import annotations

import json
from collections.abc import Mapping

import orjson


def vector_line(identifier: str, impacts: Mapping[str, int], contents: str | None = None) -> bytes:
    """Return a line of Anserini's ``JsonVectorCollection``, in UTF-8 with its line end."""
    record: dict[str, object] = {"id": identifier}
    if contents is not None:
        record["contents"] = contents
    record["vector"] = impacts
    return orjson.dumps(record) + b"\n"


def cached_query_line(text: str, impacts: Mapping[str, int]) -> bytes:
    """Return a line of a file for Pyserini's ``--encoder queries.jsonl``.

    Pyserini opens it in the platform's encoding, so all but ASCII is escaped.
    """
    return json.dumps({"contents": text, "vector": dict(impacts)}).encode("ascii") + b"\n"


def pretokenized(impacts: Mapping[str, int]) -> str:
    """Return each term as often as its impact says, for Anserini's ``-impact -pretokenized``."""
    return " ".join(" ".join([term] * impact) for term, impact in impacts.items())


def json_string_line(identifier: str, impacts: Mapping[str, int]) -> bytes:
    """Return a line for Anserini's ``-topicReader JsonString``."""
    return orjson.dumps({"id": identifier, "title": pretokenized(impacts)}) + b"\n"


def tsv_string_line(identifier: str, impacts: Mapping[str, int]) -> bytes:
    """Return a line for Anserini's ``-topicReader TsvString``, which no query may leave empty."""
    return f"{identifier}\t{pretokenized(impacts)}\n".encode()
