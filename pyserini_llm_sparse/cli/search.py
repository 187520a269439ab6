"""``search``: topics to a run file, the queries encoded in batches."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import IO, Annotated, Any

import typer

from pyserini_llm_sparse.cli import options
from pyserini_llm_sparse.cli.console import count, duration, progress_bar, say, without_java_warnings
from pyserini_llm_sparse.cli.topics import encode_topics, load_topics
from pyserini_llm_sparse.files.atomic import atomic_file
from pyserini_llm_sparse.files.outputs import require_file
from pyserini_llm_sparse.files.trec import msmarco_lines, run_lines
from pyserini_llm_sparse.modelling.names import KEYWORD, parse_encoder_name

NAME = "search"
HELP = """Search an index and write a run file.

The encoder's spec must be the one that the index was made under, as far as it concerns queries.
"""
EXAMPLES = (
    "search --index index --topics topics.tsv --output run.txt",
    "search --index index --topics beir/scifact --hits 100 --threads 4 > run.txt",
)

LEAST_IMPACT = 4.0  # on average; in texts, a term occurs once or twice in a document
QUERIES_AT_ONCE = 500  # each may hold a thousand hits


class RunFormat(StrEnum):
    """Columns of the run file."""

    trec = "trec"
    msmarco = "msmarco"


def command(
    index: Annotated[Path, typer.Option(help="Folder of the index.")],
    topics: Annotated[
        str,
        typer.Option(help="TSV (id, tab, text), JSONL, a BEIR folder, irds:DATASET, or a name that Pyserini knows."),
    ],
    output: Annotated[Path | None, typer.Option(help="Run file; by default standard output.")] = None,
    encoder: options.Encoder = KEYWORD,
    hits: Annotated[int, typer.Option(metavar="N", min=1, help="Return at most N documents for each query.")] = 1000,
    batch_size: options.BatchSize = 32,
    max_length: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Encode at most N tokens of a query; by default the spec's limit."),
    ] = None,
    device: options.Device = None,
    dtype: options.DType = None,
    precision: options.Precision = None,
    threads: Annotated[int, typer.Option(metavar="N", min=1, help="Search threads.")] = 1,
    output_format: Annotated[RunFormat, typer.Option(help="Six columns as for trec_eval, or MS MARCO's three.")] = (
        RunFormat.trec
    ),
    remove_query: Annotated[
        bool, typer.Option("--remove-query", help="Leave out a document that is the query itself.")
    ] = False,
    tag: Annotated[str, typer.Option(help="Name of the run in its last column.")] = "csplade",
    overwrite: options.Overwrite = False,
) -> None:
    """Carry out the command that `HELP` describes."""
    from pyserini_llm_sparse.indexing.lucene import LuceneIndex, require_index_spec

    if output is not None:
        require_file(output, overwrite)
    found = load_topics(topics)
    loaded = options.load_encoder(encoder, device, dtype, None, precision=precision, query_max_length=max_length)
    set_on_purpose = {*parse_encoder_name(encoder).overrides, *(() if max_length is None else ("query_max_length",))}
    carried = require_index_spec(index, loaded.spec, encoder, set_on_purpose)
    started = time.monotonic()
    impacts = encode_topics(loaded, found, batch_size)
    encoded = time.monotonic()
    with (
        without_java_warnings(),
        LuceneIndex(index) as opened,
        _opened_run(output) as run,
        progress_bar(lambda: len(found), "queries searched") as progress,
    ):
        if carried is None and 0 < opened.mean_impact < LEAST_IMPACT:
            say(
                f"{index}: looks like an index of texts, as for BM25, where impacts are expected: its scores mean "
                "nothing for these queries; index vectors, or search it with python -m pyserini.search.lucene --bm25"
            )
        ready = time.monotonic()
        nothing = []
        pairs = list(zip(found, impacts, strict=True))
        for start in range(0, len(pairs), QUERIES_AT_ONCE):
            part = pairs[start : start + QUERIES_AT_ONCE]
            queries = {topic.id: vector for topic, vector in part if vector}
            results = opened.search_batch(queries, hits + remove_query, threads)
            for topic, _ in part:
                ranked = _ranked(results.get(topic.id, ()), topic.id if remove_query else None, hits)
                run.write(_lines(topic.id, ranked, output_format, tag))
                if not ranked:
                    nothing.append(topic.id)
            progress(len(part), True)
        searched = time.monotonic()
    say(
        f"{output or 'standard output'}: {count(len(found), 'query')}: {duration(encoded - started)} to encode, "
        f"{duration(searched - ready)} to search"
    )
    if nothing:
        shown = ", ".join(nothing[:5]) + (", ..." if len(nothing) > 5 else "")
        say(f"{count(len(nothing), 'query')} found nothing: {shown}")


@contextlib.contextmanager
def _opened_run(output: Path | None) -> Iterator[IO[bytes]]:
    """Open the run file, or standard output."""
    if output is None:
        sys.stdout.flush()
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
    else:
        with atomic_file(output) as stream:
            yield stream


def _ranked(found: Sequence[Any], left_out: str | None, hits: int) -> list[tuple[str, float]]:
    """Return ids and scores of the best documents but for one that is the query itself."""
    return [(hit.document_id, hit.score) for hit in found if hit.document_id != left_out][:hits]


def _lines(query_id: str, ranked: Sequence[tuple[str, float]], output_format: RunFormat, tag: str) -> bytes:
    if output_format is RunFormat.msmarco:
        return msmarco_lines(query_id, ranked)
    return run_lines(query_id, ranked, tag)
