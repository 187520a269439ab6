"""Cut a corpus into windows of consecutive records: the unit of work, of sharding and of resuming.

The cut depends on the corpus alone, so the batches inside a window, and with them the bytes written, do not depend on
who computes it, in how many shards, or after how many interruptions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pyserini_llm_sparse.files.duplicates import SeenIds
from pyserini_llm_sparse.files.records import Document, Record, Rejected

WINDOW_CHARACTERS = 2**24


@dataclass(frozen=True, slots=True)
class Window:
    """Consecutive records of a corpus.

    Attributes:
        index: Number of the window, from 0.
        documents: Its documents, in the order of the corpus.
        rejected: Its records that cannot be used.
        digest: SHA-256 over ids and texts, which shows when a corpus was changed between two runs.
    """

    index: int
    documents: list[Document]
    rejected: list[Rejected]
    digest: str

    def __len__(self) -> int:
        return len(self.documents) + len(self.rejected)


def windows(records: Iterable[Record], size: int, characters: int = WINDOW_CHARACTERS) -> Iterator[Window]:
    """Yield the windows of a corpus; a document whose id occurred before, in any window, is rejected.

    Args:
        records: The records of the corpus.
        size: Number of records that fills a window.
        characters: Length of all its texts that fills a window earlier, so that long documents fit in memory, too.
    """
    seen = SeenIds()
    for index, found in enumerate(_groups(records, size, characters)):
        repeated = iter(seen.repeated([record.id for record in found if isinstance(record, Document)]))
        checked = [
            _duplicate(record) if isinstance(record, Document) and next(repeated) else record for record in found
        ]
        documents = [record for record in checked if isinstance(record, Document)]
        rejected = [record for record in checked if isinstance(record, Rejected)]
        yield Window(index, documents, rejected, _digest(documents, rejected))


def _groups(records: Iterable[Record], size: int, characters: int) -> Iterator[list[Record]]:
    group: list[Record] = []
    length = 0
    for record in records:
        group.append(record)
        length += len(record.text) if isinstance(record, Document) else 0
        if len(group) == size or length >= characters:
            yield group
            group, length = [], 0
    if group:
        yield group


def _duplicate(document: Document) -> Rejected:
    return Rejected(
        document.source,
        document.line,
        "duplicate id",
        "an earlier record has it, and evaluation refuses a ranking that holds an id twice",
        "rename or remove one",
        document.id,
    )


def _digest(documents: list[Document], rejected: list[Rejected]) -> str:
    digest = hashlib.sha256()
    for document in documents:
        digest.update(f"{len(document.id)} {len(document.text)} {document.id} {document.text}\n".encode())
    for record in rejected:
        digest.update(f"rejected {record.line} {record.what}\n".encode())
    return digest.hexdigest()
