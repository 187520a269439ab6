"""The encoding job: read ahead, compute and write at the same time, one window of the corpus after the other."""

from __future__ import annotations

import hashlib
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pyserini_llm_sparse.errors import DataError, SpecMismatchError, UsageError, at
from pyserini_llm_sparse.files.corpus import read_corpus
from pyserini_llm_sparse.files.folders import corpus_files
from pyserini_llm_sparse.files.records import Rejected
from pyserini_llm_sparse.files.vector_lines import vector_line
from pyserini_llm_sparse.files.walk import is_file
from pyserini_llm_sparse.indexing.vectors.identity import JobIdentity, job_identity
from pyserini_llm_sparse.indexing.vectors.pipeline import ReadAhead, WriteBehind
from pyserini_llm_sparse.indexing.vectors.report import EncodeReport, report_of
from pyserini_llm_sparse.indexing.vectors.state import JobState, Manifest, Part
from pyserini_llm_sparse.indexing.vectors.windows import Window, windows

if TYPE_CHECKING:
    from pyserini_llm_sparse.encoder import SparseEncoder
    from pyserini_llm_sparse.modelling.vectors import SparseVectors

WINDOW_SIZE = 2048
BATCH_SIZE = 32
_READ_AHEAD = 2
_WRITE_BEHIND = 2
_BATCHES_AT_ONCE = 4

OnError = Literal["skip-empty", "fail", "skip"]

Progress = Callable[[int, bool], None]
"""Called with a number of records and whether they were encoded now; False for those done before or by other shards."""


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
    job = _Job(encoder, state, identity, batch_size, contents, progress or (lambda count, now: None), others)
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


class _Job:
    """The run of one process: the main thread computes, while others read the corpus and write the parts."""

    def __init__(
        self,
        encoder: SparseEncoder,
        state: JobState,
        identity: JobIdentity,
        batch_size: int,
        contents: bool,
        progress: Progress,
        others: bool,
    ) -> None:
        self.encoded = 0
        self._encoder = encoder
        self._truncated_before = encoder.tokenization.truncated_documents
        self._state = state
        self._identity = identity
        self._batch_size = batch_size
        self._contents = contents
        self._progress = progress
        self._others = others
        self._started: float | None = None

    @property
    def seconds(self) -> float:
        """Time since the first document was encoded, the loading of the model left out."""
        return 0.0 if self._started is None else time.monotonic() - self._started

    @property
    def truncated(self) -> int:
        """Documents that lost their end."""
        return self._encoder.tokenization.truncated_documents - self._truncated_before

    def proven(self, corpus: str | Path, source: Iterator[Window], on_error: OnError) -> Iterator[Window]:
        """Load the model and look at the first window. Returns the windows, that one among them."""
        first = next(source, None)
        if first is None:
            raise _no_records(corpus)
        _require_usable(first, on_error)
        _ = self._encoder.engine
        return itertools.chain([first], source)

    def run(self, corpus: str | Path, source: Iterator[Window], shard: tuple[int, int], on_error: OnError) -> int:
        """Encode the windows of the shard that are not done. Returns the number of windows of the corpus."""
        count = documents = 0
        unusable: Rejected | None = None
        done = dict(self._state.parts)
        with WriteBehind(self._write, _WRITE_BEHIND) as writer:
            for window in source:
                count += 1
                documents += len(window.documents)
                unusable = unusable or next(iter(window.rejected), None)
                own = window.index % shard[1] == shard[0]
                if part := done.get(window.index):
                    self._require_unchanged(window, part)
                if part or not own:
                    if own or self._others:
                        self._progress(len(window), False)
                else:
                    _require_usable(window, on_error)
                    self._progress(len(window.rejected), True)
                    writer.put((window, list(self._batches(window))))
        if not count:
            raise _no_records(corpus)
        if unusable is not None and not documents:
            raise DataError(f"{corpus}: none of its records can be encoded; the first: {unusable.message()}")
        if done and max(done) >= count:
            raise self._changed(f"{corpus}: ends before the records of {done[max(done)].file}")
        return count

    def _batches(self, window: Window) -> Iterator[tuple[list[int], SparseVectors]]:
        """Yield the positions and the vectors of a few batches at a time.

        The longest come first, so that little of a batch is padding, and what does not fit in memory fails at once.
        The encoder sorts again, by tokens.
        """
        if self._started is None:
            _ = self._encoder.engine  # loads the model
            self._started = time.monotonic()
        texts = [document.text for document in window.documents]
        order = sorted(range(len(texts)), key=lambda position: -len(texts[position]))
        step = self._batch_size * _BATCHES_AT_ONCE
        for start in range(0, len(order), step):
            positions = order[start : start + step]
            chosen = [texts[position] for position in positions]
            yield positions, self._encoder.encode_documents(chosen, batch_size=self._batch_size)
            self.encoded += len(positions)
            self._progress(len(positions), True)

    def _write(self, computed: tuple[Window, list[tuple[list[int], SparseVectors]]]) -> None:
        """Quantise a window's vectors and put its part in place; runs in the writer's thread."""
        window, batches = computed
        spec, terms = self._encoder.spec, self._encoder.vocabulary.terms
        lines: list[bytes] = [b""] * len(window.documents)
        empty = []
        for positions, vectors in batches:
            rows = vectors.impacts(spec.impact_factor, spec.impact_maximum).rows(terms)
            for position, impacts in zip(positions, rows, strict=True):
                document = window.documents[position]
                lines[position] = vector_line(document.id, impacts, document.text if self._contents else None)
                if not impacts:
                    empty.append(position)
        content = b"".join(lines)
        part = Part(
            window=window.index,
            input_digest=window.digest,
            documents=len(window.documents),
            skipped=tuple({**record.report(), "skipped": True} for record in window.rejected),
            empty=tuple(_empty_report(window, position) for position in sorted(empty)),
            bytes=len(content),
            sha256=hashlib.sha256(content).hexdigest(),
        )
        self._state.write(part, content)

    def _require_unchanged(self, window: Window, part: Part) -> None:
        if window.digest != part.input_digest:
            first = (window.documents or window.rejected)[0]
            raise self._changed(
                f"{at(first.source, first.line)}: the records from here on are not those of {part.file}"
            )

    def _changed(self, what: str) -> SpecMismatchError:
        """Return the error for a corpus of which something that was encoded is not there any more."""
        now, before = self._identity.corpus_summary(), (self._state.begun or self._identity).corpus_summary()
        return SpecMismatchError(
            f"{what}: the corpus was changed: it is {now} here, {before} there; restore it, choose another --output, "
            "or give --overwrite to start again"
        )


def _require_usable(window: Window, on_error: OnError) -> None:
    for record in window.rejected:
        if on_error == "fail" or (on_error == "skip-empty" and not record.is_without_text):
            raise record.error()


def _no_records(corpus: str | Path) -> DataError:
    return DataError(f"{corpus}: no records: the corpus is empty; check the path")


def _empty_report(window: Window, position: int) -> dict[str, str | int | bool]:
    document = window.documents[position]
    return {
        "source": document.source,
        "line": document.line,
        "id": document.id,
        "what": "empty vector",
        "why": "no term has a positive weight, and Lucene does not index such a document",
        "remedy": "none if the text says nothing; else check the model",
        "skipped": False,
    }
