"""``encode``: a corpus to a folder of vectors that Pyserini and Anserini index."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pyserini_llm_sparse.cli import options
from pyserini_llm_sparse.cli.console import count, duration, print_json, progress_bar, say, size
from pyserini_llm_sparse.errors import PartialError, UsageError
from pyserini_llm_sparse.modelling.names import KEYWORD

if TYPE_CHECKING:
    from pyserini_llm_sparse.indexing.vectors import EncodeReport

NAME = "encode"
HELP = """Encode a corpus to sparse vectors, ready to be indexed.

Memory stays bounded whatever the corpus holds. An interrupted run goes on when the same command is given again, and
ends with the same bytes.
"""
EXAMPLES = (
    "encode --corpus corpus.jsonl --output vectors",
    "encode --corpus beir/scifact --output vectors --encoder my-model --on-error skip",
    "encode --corpus collection.tsv.gz --output vectors --device cuda:0,cuda:1",
    "encode --corpus collection.tsv.gz --output vectors --shard-id 0 --shard-num 4 --device cuda:0",
)


class OnError(StrEnum):
    """What happens at a record that cannot be encoded."""

    skip_empty = "skip-empty"
    fail = "fail"
    skip = "skip"


def command(
    corpus: Annotated[
        str,
        typer.Option(
            help="A JSONL, TSV, CSV or Parquet file, also packed, a folder of them, a BEIR folder, or irds:DATASET."
        ),
    ],
    output: Annotated[Path, typer.Option(help="Folder for the vectors; it must hold nothing else.")],
    encoder: options.Encoder = KEYWORD,
    fields: Annotated[
        str | None,
        typer.Option(help="Fields that make up the text, such as title,text; by default contents, or title,text."),
    ] = None,
    batch_size: options.BatchSize = 32,
    max_length: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Encode at most N tokens of a document; by default the spec's limit."),
    ] = None,
    max_active_terms: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Keep at most N terms of a document, the heaviest.")
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(help="Where the model runs; with several, such as cuda:0,cuda:1 or cuda:all, a process on each."),
    ] = None,
    dtype: options.DType = None,
    precision: options.Precision = None,
    threads: options.Threads = None,
    shard_id: Annotated[int, typer.Option(metavar="N", min=0, help="Which shard this process encodes, from 0.")] = 0,
    shard_num: Annotated[
        int, typer.Option(metavar="N", min=1, help="Number of shards; all write to the same output.")
    ] = 1,
    on_error: Annotated[
        OnError,
        typer.Option(
            help="Leave out and report records without text, and stop at a bad one; stop at either; or skip both."
        ),
    ] = OnError.skip_empty,
    contents: Annotated[bool, typer.Option("--contents", help="Write the text beside each vector.")] = False,
    window_size: Annotated[
        int,
        typer.Option(
            metavar="N", min=1, help="Documents in each file, which is also how many an interruption can lose."
        ),
    ] = 2048,
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
) -> None:
    """Carry out the command that `HELP` describes."""
    from pyserini_llm_sparse.files.corpus import count_records
    from pyserini_llm_sparse.indexing.vectors import encode_corpus
    from pyserini_llm_sparse.indexing.vectors.devices import devices_of, encode_on_devices

    if shard_id >= shard_num:
        raise UsageError(f"--shard-id {shard_id}: there are {shard_num} shards, counted from 0; choose a smaller one")
    devices = devices_of(device)
    if devices and shard_num > 1:
        raise UsageError(f"--shard-num {shard_num}: each device is a shard already; leave it out, or name one --device")
    chosen = {"precision": precision, "document_max_length": max_length, "document_top_k": max_active_terms}
    run: Callable[..., EncodeReport]
    if devices:
        loading = options.given({**chosen, "dtype": dtype, "threads": threads})
        run = partial(encode_on_devices, encoder, devices, loading=loading)
    else:
        loaded = options.load_encoder(encoder, device, dtype, threads, **chosen)
        run = partial(encode_corpus, loaded, shard_id=shard_id, shard_num=shard_num)

    def total() -> int | None:
        return None if Path(corpus).is_fifo() else count_records(corpus)  # a pipe can be read only once

    with progress_bar(total, "documents") as progress:
        report = run(
            corpus, output, fields=_names(fields), batch_size=batch_size, on_error=on_error.value, contents=contents,
            window_size=window_size, overwrite=overwrite, progress=progress,
        )  # fmt: skip
    if as_json:
        print_json(asdict(report))
    _summarise(report, output, shard_num)


def _names(fields: str | None) -> list[str] | None:
    """Return the names in ``title,text`` or ``title text``."""
    return fields.replace(",", " ").split() if fields else None


def _summarise(report: EncodeReport, output: Path, shard_num: int) -> None:
    if report.finished and not report.encoded:
        say(f"{output}: complete already: {count(report.documents, 'document')}; nothing to do")
    else:
        speed = f", {report.encoded / report.seconds:,.1f} documents a second" if report.encoded else ""
        say(f"{output}: encoded {count(report.encoded, 'document')} in {duration(report.seconds)}{speed}")
        if not report.finished:
            say(f"{output}: this shard is complete: {count(report.documents, 'document')}; not all {shard_num} are")
        elif report.documents != report.encoded:
            say(f"{output}: complete: {count(report.documents, 'document')} with those of earlier runs or other shards")
        say(f"{output}: {size(report.bytes)} of vectors")
    if report.truncated:
        say(
            f"{output}: {count(report.truncated, 'document')} of those encoded now lost the end, beyond the maximum "
            "length; --max-length changes it"
        )
    if report.empty:
        say(f"{output}: {count(report.empty, 'document')} without any term, not indexed by Lucene; {_where(report)}")
    if report.without_text:
        say(f"{output}: {count(report.without_text, 'record')} without text left out; {_where(report)}")
    if bad := report.skipped - report.without_text:
        raise PartialError(f"{output}: {count(bad, 'record')} skipped: bad input; {_where(report)}")


def _where(report: EncodeReport) -> str:
    return f"see {report.skipped_path}" if report.skipped_path else "they are listed when all shards are complete"
