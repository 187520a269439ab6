"""The run of one process over a corpus: it encodes the windows of its shard that are not done, and has them written."""

from __future__ import annotations

import hashlib
import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pyserini_llm_sparse.errors import DataError, SpecMismatchError, at
from pyserini_llm_sparse.files.records import Rejected
from pyserini_llm_sparse.files.vector_lines import vector_line
from pyserini_llm_sparse.indexing.vectors.identity import JobIdentity
from pyserini_llm_sparse.indexing.vectors.pipeline import WriteBehind
from pyserini_llm_sparse.indexing.vectors.state import JobState, Part
from pyserini_llm_sparse.indexing.vectors.windows import Window

if TYPE_CHECKING:
    from pyserini_llm_sparse.encoder import SparseEncoder
    from pyserini_llm_sparse.modelling.vectors import SparseVectors

_WRITE_BEHIND = 2
_BATCHES_AT_ONCE = 4

OnError = Literal["skip-empty", "fail", "skip"]

Progress = Callable[[int, bool], None]
"""Called with a number of records and whether they were encoded now; False for those done before or by other shards."""


class Job:
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
