"""``index``: a folder of vectors to a Lucene index, checked for completeness."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from pyserini_llm_sparse.cli import options
from pyserini_llm_sparse.cli.console import count, print_json, say, size, still_at_work, without_java_warnings

NAME = "index"
HELP = """Index vectors and check that all are there.

Pyserini's indexer by itself ends well even if it lost documents; this looks for each of them in the index.
"""
EXAMPLES = (
    "index --input vectors --index index --threads 4",
    "index --input vectors --index index --overwrite",
)


def command(
    vectors: Annotated[Path, typer.Option("--input", help="Folder of vectors, as encode writes it.")],
    index: Annotated[Path, typer.Option(help="Folder of the index.")],
    threads: Annotated[int, typer.Option(metavar="N", min=1, help="Indexing threads.")] = 1,
    store_raw: Annotated[bool, typer.Option("--store-raw", help="Keep each document's JSON in the index.")] = False,
    store_vectors: Annotated[bool, typer.Option("--store-vectors", help="Keep term vectors in the index.")] = False,
    log: Annotated[Path | None, typer.Option(help="File for what the indexer prints.")] = None,
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
) -> None:
    """Carry out the command that `HELP` describes."""
    from pyserini_llm_sparse.indexing import lucene

    with without_java_warnings(), still_at_work(f"{index}: indexing"):
        report = lucene.index(
            vectors,
            index,
            threads=threads,
            store_raw=store_raw,
            store_vectors=store_vectors,
            log=log,
            overwrite=overwrite,
        )
    if as_json:
        print_json(asdict(report))
    taken = sum(path.stat().st_size for path in index.rglob("*") if path.is_file())
    say(f"{index}: indexed {count(report.indexed, 'document')}, all {report.encoded - report.empty:,} that have terms")
    say(f"{index}: {size(taken)}")
    if report.empty:
        say(f"{index}: {count(report.empty, 'document')} without any term: Lucene does not index them")
