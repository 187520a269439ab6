"""The small test collection that a model is evaluated on while it trains."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from pyserini_llm_sparse.errors import DataError
from pyserini_llm_sparse.files.corpus import read_corpus
from pyserini_llm_sparse.files.records import Document
from pyserini_llm_sparse.files.topics import read_topics
from pyserini_llm_sparse.files.trec import qrels_file, read_qrels

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DevelopmentSet:
    """Documents, queries and judgements, in memory.

    Attributes:
        name: Where it comes from, for messages.
        document_ids: The documents' ids.
        documents: Their texts, title and text joined as ``encode`` joins them.
        query_ids: The queries' ids.
        queries: Their texts; each has a relevant document.
        qrels: ``{query id: {document id: grade}}`` of these queries.
    """

    name: str
    document_ids: tuple[str, ...]
    documents: tuple[str, ...]
    query_ids: tuple[str, ...]
    queries: tuple[str, ...]
    qrels: dict[str, dict[str, int]]

    @classmethod
    def load(cls, path: str | Path, split: str = "dev", queries: int | None = None) -> DevelopmentSet:
        """Read a BEIR directory: ``corpus.jsonl``, ``queries.jsonl``, ``qrels/<split>.tsv``.

        Documents without text are left out with a warning, as an index has none of them; queries without a relevant
        document measure nothing and are left out as well.

        Args:
            path: The directory.
            split: Name of its qrels.
            queries: Most queries, taken at equal distances from all of them; None for all. Documents are not left out.

        Raises:
            ResourceError: A file is missing.
            DataError: A record is bad, or no query has a relevant document in the corpus.
        """
        judged = read_qrels(qrels_file(path, split))
        documents = _documents(path)
        known = {document.id for document in documents}
        topics = [
            topic
            for topic in read_topics(path)
            if any(grade > 0 and document in known for document, grade in judged.get(topic.id, {}).items())
        ]
        if not topics:
            raise DataError(
                f"{path}: qrels {split}: no query of queries.jsonl has a relevant document in the corpus: nothing can "
                "be measured; name another split, or complete the files"
            )
        if queries is not None and queries < len(topics):
            topics = [topics[number * len(topics) // queries] for number in range(queries)]
        return cls(
            name=f"{path} ({split})",
            document_ids=tuple(document.id for document in documents),
            documents=tuple(document.text for document in documents),
            query_ids=tuple(topic.id for topic in topics),
            queries=tuple(topic.text for topic in topics),
            qrels={topic.id: judged[topic.id] for topic in topics},
        )


def _documents(path: str | Path) -> list[Document]:
    """Read the corpus; documents without text are counted and left out."""
    documents, empty = [], 0
    for record in read_corpus(path):
        if isinstance(record, Document):
            documents.append(record)
        elif record.is_without_text:
            empty += 1
        else:
            raise record.error()
    if empty:
        _logger.warning("%s: %d documents without text are left out of the evaluation", path, empty)
    return documents
