"""An impact index opened for reading: search, the terms that make a score, and the documents that are in it."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Self

from pyserini_llm_sparse.errors import DataError, ResourceError
from pyserini_llm_sparse.files.fields import joined_fields
from pyserini_llm_sparse.files.records import RecordProblem
from pyserini_llm_sparse.indexing.lucene import jdk
from pyserini_llm_sparse.indexing.lucene.failures import java_errors

CONTENTS = "contents"  # Anserini's field of terms
DOCUMENT_ID = "id"
MAXIMUM_QUERY_TERMS = 1 << 20  # above any vocabulary; Lucene's own limit is 1,024


ONE_AT_A_TIME = threading.RLock()
"""Held wherever Python calls Java: pyjnius keeps the object of a call on the method, which all threads share, so that
one thread's query would get another's terms (pyjnius#287, #563, #588)."""


@dataclass(frozen=True)
class Contribution:
    """What one shared term adds to a document's score: the product of the two impacts."""

    term: str
    query_impact: int
    document_impact: int

    @property
    def score(self) -> int:
        """The product."""
        return self.query_impact * self.document_impact


@dataclass(frozen=True)
class Hit:
    """A document that was found, with the score that Anserini gives: equal scores are nudged apart by about 1e-6."""

    document_id: str
    score: float


class OpenedIndex:
    """An index opened with one of Java's searchers, to be closed again.

    Attributes:
        path: Its directory, absolute: Java stays in the folder that this process started in.
    """

    def __init__(self, index: str | Path, remedy: str) -> None:
        """Open an index.

        Args:
            index: Its directory.
            remedy: What to do where there is none.

        Raises:
            ResourceError: There is no index in that place.
            DataError: It is damaged, or of another version of Lucene.
            PrerequisiteError: There is no fit Java.
        """
        self.path = Path(index).resolve()
        if not any(self.path.glob("segments_*")):
            raise ResourceError(f"{index}: no Lucene index there; {remedy}")
        self._java = java_classes()
        with self._turn("cannot be opened"):
            self._java("org.apache.lucene.search.IndexSearcher").setMaxClauseCount(MAXIMUM_QUERY_TERMS)
            self._searcher = self._opened()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: object) -> None:
        self.close()

    def text(self, document_id: str) -> str | None:
        """Return the text of a document, as far as the index keeps it: its contents, or those of its JSON record."""
        with self._turn("cannot be read"):
            document = self._searcher.doc(document_id)
            kept = None if document is None else (document.get(CONTENTS), document.get("raw"))
        return None if kept is None else kept[0] or _text_of(kept[1] or "", document_id) or None

    def close(self) -> None:
        """Close the index."""
        with self._turn("cannot be closed"):
            self._searcher.close()

    def _opened(self) -> Any:
        """Open the index in Java. Returns what searches it, and can be closed."""
        raise NotImplementedError

    @contextlib.contextmanager
    def _turn(self, what: str) -> Iterator[None]:
        """Call Java, in one thread at a time, its exceptions being ours; see `java_errors`."""
        with ONE_AT_A_TIME, java_errors(self.path, what):
            yield


class LuceneIndex(OpenedIndex):
    """An impact index opened for reading, through Anserini's own searcher.

    It may be used from several threads, of which one at a time searches; `search_batch` searches in Java's threads.
    """

    def __init__(self, index: str | Path) -> None:
        """Open an index; see `OpenedIndex` for what can go wrong."""
        super().__init__(index, "make one with `python -m pyserini_llm_sparse index`")
        self._reader = self._searcher.reader

    def _opened(self) -> Any:
        return self._java("io.anserini.search.SimpleImpactSearcher")(str(self.path))

    def __len__(self) -> int:
        with self._turn("cannot be read"):
            return int(self._reader.numDocs())

    @property
    def postings(self) -> int:
        """How many pairs of a term and a document the index holds."""
        with self._turn("cannot be read"):
            terms = self._java("org.apache.lucene.index.MultiTerms").getTerms(self._reader, CONTENTS)
            return 0 if terms is None else int(terms.getSumDocFreq())

    @property
    def mean_impact(self) -> float:
        """The mean of its impacts; in an index of texts, how often a term occurs in a document that has it."""
        with self._turn("cannot be read"):
            terms = self._java("org.apache.lucene.index.MultiTerms").getTerms(self._reader, CONTENTS)
            return 0.0 if terms is None or not self.postings else terms.getSumTotalTermFreq() / self.postings

    def document_ids(self) -> Iterator[tuple[str, int]]:
        """Yield each document id and how often it is in the index, in Lucene's order."""
        with self._turn("cannot be read"):
            terms = self._java("org.apache.lucene.index.MultiTerms").getTerms(self._reader, DOCUMENT_ID)
            iterator = None if terms is None else terms.iterator()
        while iterator is not None:
            with self._turn("cannot be read"):
                term = iterator.next()
                found = None if term is None else (term.utf8ToString(), iterator.docFreq())
            if found is None:
                return
            yield found

    def search(self, impacts: Mapping[str, int], k: int = 1000) -> list[Hit]:
        """Return the best ``k`` documents for a query vector, best first."""
        with self._turn("cannot be searched"):
            return self._hits(self._searcher.search(self._query_map(impacts), k))

    def search_batch(self, queries: Mapping[str, Mapping[str, int]], k: int = 1000, threads: int = 1) -> dict[str, Any]:
        """Return the best ``k`` documents for each query vector by its id, searched in threads."""
        with self._turn("cannot be searched"):
            vectors, names = self._java("java.util.ArrayList")(), self._java("java.util.ArrayList")()
            for name, impacts in queries.items():
                vectors.add(self._query_map(impacts))
                names.add(name)
            found = self._searcher.batch_search(vectors, names, k, threads)
            return {name: self._hits(found.get(name)) for name in queries}

    def explain(self, impacts: Mapping[str, int], document_id: str) -> list[Contribution]:
        """Return what each shared term adds to a document's score, most first; together they are Lucene's score.

        With Anserini's impact similarity a term's score is the product of the query's and the document's impact.

        Raises:
            DataError: The document is not in the index.
        """
        shared = []
        with self._turn("cannot be read"):
            number = self._number_of(document_id)
            for term, query_impact in impacts.items():
                document_impact = self._frequency(term, number)
                if document_impact:
                    shared.append(Contribution(term, query_impact, document_impact))
        return sorted(shared, key=lambda contribution: (-contribution.score, contribution.term))

    def lucene_score(self, impacts: Mapping[str, int], document_id: str) -> float:
        """Return the score that Lucene itself computes for one document, 0 if no term is shared.

        Raises:
            DataError: The document is not in the index.
        """
        with self._turn("cannot be searched"):
            number = self._number_of(document_id)
            query = self._java("org.apache.lucene.search.BooleanQuery$Builder")()
            should = self._java("org.apache.lucene.search.BooleanClause$Occur").SHOULD
            for term, impact in impacts.items():
                term_query = self._java("org.apache.lucene.search.TermQuery")(
                    self._java("org.apache.lucene.index.Term")(CONTENTS, term)
                )
                query.add(self._java("org.apache.lucene.search.BoostQuery")(term_query, float(impact)), should)
            searcher = self._java("org.apache.lucene.search.IndexSearcher")(self._reader)
            searcher.setSimilarity(self._java("io.anserini.search.similarity.ImpactSimilarity")())
            # Without the cast pyjnius may choose the method of the same name that takes a Weight.
            from jnius import cast

            explanation = searcher.explain(cast("org.apache.lucene.search.Query", query.build()), number)
            return float(explanation.getValue().floatValue())

    def _number_of(self, document_id: str) -> int:
        """Lucene's number of a document."""
        postings = self._postings(DOCUMENT_ID, document_id)
        if postings is None:
            raise DataError(f"{self.path}: document {document_id!r} is not in the index; check the id")
        return int(postings.nextDoc())

    def _frequency(self, term: str, number: int) -> int:
        """The impact of a term in a document, stored as its term frequency."""
        postings = self._postings(CONTENTS, term)
        if postings is None or postings.advance(number) != number:
            return 0
        return int(postings.freq())

    def _postings(self, field: str, term: str) -> Any:
        text = self._java("org.apache.lucene.index.Term")(field, term).bytes()
        return self._java("org.apache.lucene.index.MultiTerms").getTermPostingsEnum(self._reader, field, text)

    def _query_map(self, impacts: Mapping[str, int]) -> Any:
        """Return the query as Java's map, made in one call, which takes half the time of one for each term."""
        reader, java_class = _json_reader()
        return reader.readValue(json.dumps({term: int(impact) for term, impact in impacts.items()}), java_class)

    @staticmethod
    def _hits(found: Sequence[Any] | None) -> list[Hit]:
        return [Hit(hit.docid, hit.score) for hit in found or ()]


def _text_of(raw: str, document_id: str) -> str:
    try:
        record = json.loads(raw)
        return joined_fields(record, None, document_id) if isinstance(record, dict) else raw
    except (ValueError, RecordProblem):
        return raw if not raw.lstrip().startswith("{") else ""


def java_classes() -> Callable[[str], Any]:
    """The function that gives a Java class by its name, with the JVM running as Pyserini starts it."""
    jdk.use_jdk()
    import jnius_config

    if not jnius_config.vm_running:
        # Signals stay with Python: the JVM would end the process at once, with half-written files left behind.
        jnius_config.add_options("-Xrs")
    from pyserini.pyclass import autoclass

    return autoclass


@cache
def _json_reader() -> tuple[Any, Any]:
    """What reads JSON in Java, and the class of maps that it is to make."""
    java = java_classes()
    return java("com.fasterxml.jackson.databind.ObjectMapper")(), java("java.lang.Class").forName("java.util.HashMap")
