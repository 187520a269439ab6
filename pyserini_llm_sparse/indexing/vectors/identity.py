"""The identity of an encoding job, by which one may continue what another began."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from pyserini_llm_sparse.errors import SpecMismatchError
from pyserini_llm_sparse.files.folders import corpus_files
from pyserini_llm_sparse.files.irds import IRDS
from pyserini_llm_sparse.files.work import require_same
from pyserini_llm_sparse.modelling.spec import EncodingSpec

if TYPE_CHECKING:
    from pyserini_llm_sparse.encoder import SparseEncoder


class CorpusFile(BaseModel):
    """A file of the corpus: its path inside the corpus, its size in bytes and its time of change in nanoseconds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    size: int
    changed: int


class JobIdentity(BaseModel):
    """Everything that the bytes of the output depend on, besides the machine and the size of its batches.

    Attributes:
        spec: The encoding spec of the encoder.
        dtype: Number format that the model computes in.
        corpus: The files that are read, in this order; for an ir_datasets corpus one entry with its id.
        fields: Names of the fields that make the text, None for the default.
        contents: Whether the text is written beside the vector.
        window_size: Number of consecutive records that make a part.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    spec: EncodingSpec
    dtype: str
    corpus: tuple[CorpusFile, ...]
    fields: tuple[str, ...] | None
    contents: bool
    window_size: int

    def require_same(self, other: JobIdentity, output: Path) -> None:
        """Refuse to continue another job's output.

        The corpus is not compared here: while it is read, the digests of the windows tell whether what was encoded of
        it is still the same. A record further on may have been corrected since.

        Args:
            other: The job whose output it is.
            output: The folder, for the message.

        Raises:
            SpecMismatchError: Naming each difference with both values.
        """
        # of another version's job the fingerprint may be shorter
        same_model = not self.spec.difference(other.spec).get("model_fingerprint")
        left_out: dict[str, Any] = {"corpus": True, **({"spec": {"model_fingerprint"}} if same_model else {})}
        now, before = (job.model_dump(exclude=left_out) for job in (self, other))
        require_same(output, now, before, SpecMismatchError)

    def corpus_summary(self) -> str:
        """Return the corpus in a few words: its first file, how many more, and its size."""
        more = f" and {len(self.corpus) - 1} more" if len(self.corpus) > 1 else ""
        return f"{self.corpus[0].path}{more} ({sum(file.size for file in self.corpus):,} bytes)"


def corpus_identity(corpus: str | Path) -> tuple[CorpusFile, ...]:
    """Return what identifies a corpus without reading it; the windows' digests prove it while it is read."""
    if str(corpus).startswith(IRDS):
        return (CorpusFile(path=str(corpus), size=0, changed=0),)
    root, listed = Path(corpus), []
    for path in corpus_files(corpus):
        status = path.stat()
        name = path.name if path == root else path.relative_to(root).as_posix()
        listed.append(CorpusFile(path=name, size=status.st_size, changed=status.st_mtime_ns))
    return tuple(listed)


def job_identity(
    encoder: SparseEncoder, corpus: str | Path, fields: Sequence[str] | None, contents: bool, window_size: int
) -> JobIdentity:
    """Return the identity of a job of this encoder on this corpus."""
    return JobIdentity(
        spec=encoder.spec,
        dtype=encoder.loader.precision,
        corpus=corpus_identity(corpus),
        fields=tuple(fields) if fields else None,
        contents=contents,
        window_size=window_size,
    )
