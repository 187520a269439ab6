"""``encode-queries``: topics to files that Pyserini and plain Anserini search with, without a model."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from pyserini_llm_sparse.cli import options
from pyserini_llm_sparse.cli.console import count, say
from pyserini_llm_sparse.cli.topics import encode_topics, load_topics
from pyserini_llm_sparse.errors import PartialError, UsageError
from pyserini_llm_sparse.files.atomic import atomic_file
from pyserini_llm_sparse.files.outputs import require_file
from pyserini_llm_sparse.files.topics import Topic
from pyserini_llm_sparse.files.vector_lines import cached_query_line, json_string_line, tsv_string_line
from pyserini_llm_sparse.modelling.names import KEYWORD
from pyserini_llm_sparse.modelling.spec import sidecar

NAME = "encode-queries"
HELP = """Encode topics for Pyserini or plain Anserini.

A query without any term is left out of Anserini's formats, whose readers fail on an empty one, and is reported.
"""
EXAMPLES = (
    "encode-queries --topics topics.tsv --output queries.jsonl",
    "python -m pyserini.search.lucene --impact --encoder queries.jsonl --topics topics.tsv \\",
    "  --index index --output run.txt",
    "",
    "encode-queries --topics topics.tsv --output queries.json --format anserini-json",
    "java -cp anserini-fatjar.jar io.anserini.search.SearchCollection -impact -pretokenized \\",
    "  -topicReader JsonString -topics queries.json -index index -output run.txt",
)


class QueryFormat(StrEnum):
    """Who reads the file."""

    pyserini = "pyserini"
    anserini_json = "anserini-json"
    anserini_tsv = "anserini-tsv"


def command(
    topics: Annotated[
        str,
        typer.Option(help="TSV (id, tab, text), JSONL, a BEIR folder, irds:DATASET, or a name that Pyserini knows."),
    ],
    output: Annotated[Path, typer.Option(help="The file to write.")],
    encoder: options.Encoder = KEYWORD,
    output_format: Annotated[
        QueryFormat,
        typer.Option(
            "--format",
            help="For Pyserini's --encoder FILE, or for Anserini's -topicReader JsonString or TsvString.",
        ),
    ] = QueryFormat.pyserini,
    batch_size: options.BatchSize = 32,
    max_length: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Encode at most N tokens of a query; by default the spec's limit."),
    ] = None,
    max_active_terms: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Keep at most N terms of a query, the heaviest.")
    ] = None,
    device: options.Device = None,
    dtype: options.DType = None,
    precision: options.Precision = None,
    threads: options.Threads = None,
    overwrite: options.Overwrite = False,
) -> None:
    """Carry out the command that `HELP` describes."""
    if output_format is QueryFormat.pyserini and output.suffix != ".jsonl":
        raise UsageError(f"{output}: Pyserini takes only a .jsonl file as an encoder; name it {output.stem}.jsonl")
    require_file(output, overwrite)
    found = load_topics(topics)
    loaded = options.load_encoder(
        encoder, device, dtype, threads, precision=precision, query_max_length=max_length, query_top_k=max_active_terms
    )
    impacts = encode_topics(loaded, found, batch_size)
    with atomic_file(output) as stream:
        stream.writelines(_lines(found, impacts, output_format))
    if output.is_file():  # not a device or a pipe, beside which nothing belongs
        loaded.spec.save(sidecar(output), loaded.checkpoint.made_by)
    terms = sum(map(len, impacts)) / len(impacts)
    say(f"{output}: encoded {count(len(found), 'query')}, {terms:.1f} terms each on average")
    empty = [topic.id for topic, vector in zip(found, impacts, strict=True) if not vector]
    if empty:
        shown = ", ".join(empty[:5]) + (", ..." if len(empty) > 5 else "")
        left_out = "find nothing" if output_format is QueryFormat.pyserini else "were left out"
        raise PartialError(f"{output}: {count(len(empty), 'query')} without any term: they {left_out}; see {shown}")


def _lines(topics: Sequence[Topic], impacts: Sequence[dict[str, int]], output_format: QueryFormat) -> list[bytes]:
    pairs = list(zip(topics, impacts, strict=True))
    if output_format is QueryFormat.pyserini:
        return [cached_query_line(topic.text, vector) for topic, vector in pairs]
    line = json_string_line if output_format is QueryFormat.anserini_json else tsv_string_line
    return [line(topic.id, vector) for topic, vector in pairs if vector]
