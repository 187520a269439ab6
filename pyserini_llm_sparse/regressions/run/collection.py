"""A test collection, laid out as Pyserini's commands read it: documents, topics and judgements."""

from __future__ import annotations

import hashlib
from pathlib import Path

import orjson

from pyserini_llm_sparse.errors import DataError, ResourceError
from pyserini_llm_sparse.files.corpus import read_corpus
from pyserini_llm_sparse.files.digests import file_sha256
from pyserini_llm_sparse.files.folders import corpus_files
from pyserini_llm_sparse.files.irds import IRDS, irds_entries
from pyserini_llm_sparse.files.records import Document
from pyserini_llm_sparse.files.topics import has_leading_zeros, read_topics, topics_file
from pyserini_llm_sparse.files.trec import qrels_file, read_qrels
from pyserini_llm_sparse.indexing.lucene.named import PYSERINI, named_qrels, named_topics
from pyserini_llm_sparse.regressions.recipe.fields import CollectionSource

DOCUMENTS = Path("corpus") / "documents.jsonl"
# Pyserini chooses a file's reader by its path: with "beir" in it lines are id, tab and text, whatever else is in it.
TOPICS = Path("beir-topics.tsv")
QRELS = Path("qrels.txt")


class Collection:
    """A collection where it comes from; nothing is read before it is asked for."""

    def __init__(self, source: CollectionSource, data: Path) -> None:
        """Name the parts of a collection.

        Args:
            source: Where it comes from.
            data: Folder that relative paths are in.
        """
        self._source = source
        if source.irds is not None:
            self._corpus = self._topics = f"{IRDS}{source.irds}"
        elif source.beir is not None:
            self._corpus = self._topics = str(data / source.beir)
        else:
            self._corpus, self._topics = f"{data / (source.corpus or '')}", _file_or_name(data, source.topics)
        self._data = data

    def digest(self) -> str:
        """Return a name of the collection's content: of its files, or an ir_datasets id or a name that Pyserini has.

        Raises:
            ResourceError: A file cannot be read.
        """
        source = self._source
        found = hashlib.sha256(repr((source.irds, source.fields)).encode())
        if source.irds is None:
            paths = [*corpus_files(self._corpus)] if source.has_documents else []
            for part in (self._topics, str(self._qrels())):
                path = Path(part.removeprefix(PYSERINI))
                if _is_name(part):
                    found.update(part.encode())
                else:
                    paths.append(topics_file(path) if path.is_dir() else path)
            for path in paths:
                try:
                    found.update(file_sha256(path).encode())
                except OSError as error:
                    raise ResourceError(f"{path}: cannot be read: {error.strerror}; check the path") from error
        return found.hexdigest()

    def write(self, folder: Path) -> dict[str, int]:
        """Write documents, if there are any of its own, judged topics and judgements to a folder.

        Test collections have documents without text; they are left out, as no system could find them.

        Returns:
            How many there are of each, and how many documents have no text.

        Raises:
            LlmSparseError: A record cannot be used, or none is there.
        """
        documents = self._write_documents(folder) if self._source.has_documents else {}
        judged = self._judgements()
        topics = read_topics(self._topics, named_topics)
        lines = [f"{topic.id}\t{' '.join(topic.text.split())}\n" for topic in topics if topic.id in judged]
        if not lines:
            raise DataError(f"{self._topics}: no topic is judged: its judgements have other ids; check the files")
        if changed := [topic.id for topic in topics if topic.id in judged and has_leading_zeros(topic.id)]:
            raise DataError(
                f"{self._topics}: id {changed[0]!r} of a topic: Pyserini writes it without the zeros in runs, where no "
                "judgement would fit it; put a letter before it in topics and judgements"
            )
        (folder / TOPICS).write_text("".join(lines), encoding="utf-8")
        rows = [
            f"{query} 0 {document} {grade}\n" for query, grades in judged.items() for document, grade in grades.items()
        ]
        (folder / QRELS).write_text("".join(rows), encoding="utf-8")
        return {**documents, "queries": len(lines), "judgements": len(rows)}

    def _write_documents(self, folder: Path) -> dict[str, int]:
        (folder / DOCUMENTS).parent.mkdir(parents=True)
        documents = empty = 0
        with (folder / DOCUMENTS).open("wb") as stream:
            for record in read_corpus(self._corpus, self._source.fields):
                if isinstance(record, Document):
                    # Pyserini takes what follows a line's end for another field.
                    contents = " ".join(record.text.split())
                    stream.write(orjson.dumps({"id": record.id, "contents": contents}) + b"\n")
                    documents += 1
                elif record.is_without_text:
                    empty += 1
                else:
                    raise record.error()
        return {"documents": documents, "without text": empty}

    def _qrels(self) -> Path | str:
        if self._source.beir is not None:
            return qrels_file(self._corpus, self._source.split)
        return _file_or_name(self._data, self._source.qrels)

    def _judgements(self) -> dict[str, dict[str, int]]:
        if self._source.irds is None:
            qrels = self._qrels()
            return read_qrels(named_qrels(str(qrels)) if _is_name(str(qrels)) else qrels)
        found: dict[str, dict[str, int]] = {}
        for one in irds_entries(self._corpus, "qrels"):
            found.setdefault(str(one.query_id), {})[str(one.doc_id)] = int(one.relevance)
        return found


def _file_or_name(data: Path, part: str | Path | None) -> str:
    """Return a file's path, or the name that Pyserini has for topics or judgements."""
    name = str(part or "")
    if name.startswith(PYSERINI):
        return f"{PYSERINI}{(data / name.removeprefix(PYSERINI)).absolute()}"
    return name if _is_name(name) and not (data / name).exists() else str((data / name).absolute())


def _is_name(part: str) -> bool:
    """Tell whether this can only be a name that Pyserini has: it has neither a folder nor a suffix."""
    return not Path(part).suffix and len(Path(part).parts) == 1
