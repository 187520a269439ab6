"""The encoding of a corpus: read ahead, compute and write at the same time, one window after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pyserini_llm_sparse.errors import UsageError
from pyserini_llm_sparse.files.corpus import read_corpus
from pyserini_llm_sparse.files.folders import corpus_files
from pyserini_llm_sparse.files.walk import is_file
from pyserini_llm_sparse.indexing.vectors.identity import JobIdentity, job_identity
from pyserini_llm_sparse.indexing.vectors.job import Job, OnError, Progress
from pyserini_llm_sparse.indexing.vectors.pipeline import ReadAhead
from pyserini_llm_sparse.indexing.vectors.report import EncodeReport, report_of
from pyserini_llm_sparse.indexing.vectors.state import JobState, Manifest
from pyserini_llm_sparse.indexing.vectors.windows import windows

if TYPE_CHECKING:
    from pyserini_llm_sparse.encoder import SparseEncoder

WINDOW_SIZE = 2048
BATCH_SIZE = 32
_READ_AHEAD = 2


def encode_corpus(
    encoder: SparseEncoder,
    corpus: str | Path,
    output: str | Path,
    *,
    fields: Sequence[str] | None = None,
    batch_size: int = BATCH_SIZE,
    shard_id: int = 0,
    shard_num: int = 1,
    on_error: OnError = "skip-empty",
    overwrite: bool = False,
    contents: bool = False,
    window_size: int = WINDOW_SIZE,
    progress: Progress | None = None,
    others: bool = True,
    begin: Callable[[], None] | None = None,
) -> EncodeReport:
    """Encode a corpus to a folder in Anserini's ``JsonVectorCollection`` format, or continue doing so.

    Memory does not grow with the corpus, but for 25 MB for the ids of each million documents. An interrupted job that
    is started again continues, and its output is the same to the byte as if it had not been interrupted. Several
    processes with one ``shard_num`` and different ``shard_id`` together write the same files as one process would.

    Args:
        encoder: The encoder of the documents.
        corpus: A file, a folder or ``irds:<dataset id>``; see `files.corpus`.
        output: Folder for the vectors, which holds nothing else, for Lucene reads every file in it.
        fields: Names of the fields that make the text; None for ``contents``, else ``title`` and ``text``.
        batch_size: Texts computed together. Another size may change an impact by one, where a float rounds otherwise.
        shard_id: Which shard this process encodes, from 0: the windows whose number leaves this remainder.
        shard_num: The number of shards.
        on_error: ``skip-empty`` leaves out records whose text is empty, counts and reports them, and ends at the first
            one that is bad; ``fail`` ends at one without text, too; ``skip`` leaves out both.
        overwrite: Start again, whatever the output holds; that is removed once the model is loaded and the first
            records are read.
        contents: Also write the text itself, as Pyserini does; Anserini does not need it.
        window_size: Maximum number of records in a part of the output; very long ones fill it earlier.
        progress: Told about records as they are done.
        others: Whether progress counts the records of other shards, too.
        begin: For processes that start again together: called where `overwrite` would remove something.

    Raises:
        UsageError: The arguments or the output folder are unfit.
        DataError: A record is bad and ``on_error`` does not skip it; the windows before it are kept. Or none is left.
        SpecMismatchError: The output holds another job's vectors, or the corpus was changed since.
        ResourceError: The corpus cannot be read, or the disk is full.
        RunError: Another process is writing this shard.
    """
    if not 0 <= shard_id < shard_num:
        raise UsageError(
            f"shard {shard_id} of {shard_num}: no such shard: shards count from 0; choose 0 to shard_num-1"
        )
    if shard_num > 1 and is_file(Path(corpus)) and not Path(corpus).is_file():
        raise UsageError(f"{corpus}: a pipe: only one process can read it, not {shard_num} shards; write it to a file")
    if batch_size < 1 or window_size < 1:
        raise UsageError(f"batch size {batch_size}, window size {window_size}: must be at least 1; choose another")
    if overwrite and shard_num > 1:
        raise UsageError(
            "overwrite: would remove the other shards' parts; remove the output folder before starting them"
        )
    if _is_inside(Path(output), corpus):
        raise UsageError(f"{output}: lies in the corpus: it would be read as a part of it; choose another --output")
    identity = job_identity(encoder, corpus, fields, contents, window_size)
    state = JobState(Path(output), f"{shard_id}-of-{shard_num}")
    if overwrite:
        begin = state.start_again
    if begin is None and (manifest := _finished(state, identity)):
        return report_of(state, manifest.parts, finished=True)
    job = Job(encoder, state, identity, batch_size, contents, progress or (lambda count, now: None), others)
    read_ahead = ReadAhead(windows(read_corpus(corpus, fields), window_size), _READ_AHEAD)
    try:
        source = iter(read_ahead)
        if begin is not None:
            state.require_vectors_only()
            source = job.proven(corpus, source, on_error)
            begin()
        state.open(identity)
        try:
            window_count = job.run(corpus, source, (shard_id, shard_num), on_error)
            manifest = state.finish(identity, window_count, encoder.checkpoint.made_by)
        finally:
            state.close()
    finally:
        read_ahead.close()
    parts = (
        manifest.parts if manifest else [part for part in state.parts.values() if part.window % shard_num == shard_id]
    )
    return report_of(state, parts, manifest is not None, job.encoded, job.truncated, job.seconds)


def _is_inside(output: Path, corpus: str | Path) -> bool:
    """Tell whether an output lies in the corpus, or in a folder that is linked into it."""
    folders = {Path(corpus)}
    if Path(corpus).is_dir():
        folders.update(path.parent for path in corpus_files(corpus))
    return any(output.resolve().is_relative_to(folder.resolve()) for folder in folders)


def _finished(state: JobState, identity: JobIdentity) -> Manifest | None:
    """Return the manifest if exactly this job is finished; if the corpus may have changed, it must be read to tell."""
    manifest = state.manifest()
    if manifest is None:
        return None
    identity.require_same(manifest.identity, state.output)
    if manifest.identity.corpus != identity.corpus or not state.has_all_files(manifest):
        return None
    state.clear()
    return manifest
