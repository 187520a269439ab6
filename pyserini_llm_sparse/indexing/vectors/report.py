"""The report of an encoding job: what it wrote, what it left out, and how long it took."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pyserini_llm_sparse.files.records import tells_of_no_text
from pyserini_llm_sparse.indexing.vectors.state import JobState, Part


@dataclass(frozen=True)
class EncodeReport:
    """What an encoding job did.

    Attributes:
        documents: Documents written, in this run and in earlier ones, of this shard.
        skipped: Records that were left out and reported, those without text among them.
        without_text: Those whose text is empty, of which nothing is lost.
        empty: Documents without any term; they are written, but Lucene does not index them.
        bytes: Size of the vectors.
        encoded: Documents encoded in this run.
        truncated: Those of them that were longer than the maximum length and lost their end.
        seconds: Time that encoding took in this run, the loading of the model left out.
        finished: Whether the whole output is there, also the other shards' parts.
        skipped_path: Report of skipped records and empty vectors, if there are any and the output is finished.
    """

    documents: int
    skipped: int
    without_text: int
    empty: int
    bytes: int
    encoded: int
    truncated: int
    seconds: float
    finished: bool
    skipped_path: Path | None = None


def report_of(
    state: JobState, parts: Sequence[Part], finished: bool, encoded: int = 0, truncated: int = 0, seconds: float = 0.0
) -> EncodeReport:
    """Return the report of a job.

    Args:
        state: The job's.
        parts: Those that it is about: of the whole output if that is finished, else of the shard.
        finished: Whether the whole output is there.
        encoded: Documents encoded in this run.
        truncated: Those of them that lost their end.
        seconds: What encoding them took.
    """
    skipped = [record for part in parts for record in part.skipped]
    empty = sum(len(part.empty) for part in parts)
    return EncodeReport(
        documents=sum(part.documents for part in parts),
        skipped=len(skipped),
        without_text=sum(map(tells_of_no_text, skipped)),
        empty=empty,
        bytes=sum(part.bytes for part in parts),
        encoded=encoded,
        truncated=truncated,
        seconds=seconds,
        finished=finished,
        skipped_path=state.skipped_path if finished and (skipped or empty) else None,
    )
