"""Hard negatives: for each query, documents that BM25 or one of our encoders ranks high and nobody judged relevant."""

from __future__ import annotations

import contextlib
import itertools
import logging
import random
import shutil
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pyserini_llm_sparse.errors import DataError, UsageError
from pyserini_llm_sparse.indexing.lucene import Hit, LuceneIndex, index
from pyserini_llm_sparse.indexing.lucene.bm25 import BM25Index, index_texts
from pyserini_llm_sparse.indexing.vectors import encode_corpus
from pyserini_llm_sparse.indexing.vectors.identity import corpus_identity
from pyserini_llm_sparse.plugin import register
from pyserini_llm_sparse.training.config.fields import MineConfig
from pyserini_llm_sparse.training.data.examples import Example, example_line
from pyserini_llm_sparse.training.data.sources import read_examples, source_fingerprints
from pyserini_llm_sparse.training.preparation.chunked_output import ChunkedOutput, Progress, require_new_output
from pyserini_llm_sparse.training.preparation.mining_store import MiningStore, text_key

if TYPE_CHECKING:
    from pyserini_llm_sparse.encoder import SparseEncoder

BM25 = "bm25"
CHUNK = 256  # queries searched at a time; each may have a thousand hits

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class MineReport:
    """The outcome of `mine`.

    Attributes:
        output: The file.
        examples: Examples read and written.
        documents: Documents searched.
        negatives: Negatives written, of all examples together.
        short: Examples with fewer negatives than asked for, those with none included.
        without_negatives: Examples with none at all.
        positive_not_found: Examples none of whose positives is among the hits; with ``least_margin`` they have no
            negatives, for then no hit is known to score below a positive.
        seconds: Time that this run took.
    """

    output: Path
    examples: int
    documents: int
    negatives: int
    short: int
    without_negatives: int
    positive_not_found: int
    seconds: float

    def summary(self) -> str:
        """Return the report in a line."""
        text = (
            f"{self.output}: {self.examples:,} examples with {self.negatives:,} negatives from {self.documents:,} "
            f"documents in {self.seconds:.0f} s"
        )
        if self.short:
            text += f"; {self.short:,} have fewer than asked for, {self.without_negatives:,} of them none"
        if self.positive_not_found:
            text += f"; no positive of {self.positive_not_found:,} was among the hits"
        return text


def mine(config: MineConfig, *, overwrite: bool = False, progress: Progress | None = None) -> MineReport:
    """Write the examples again, in their order, each with negatives that were searched for.

    A negative is one of the hits from ``first_rank`` on that is no positive of any example with the same query text
    (by id, or by text up to white space and case), is not the query itself, and, with ``least_margin``, scores at most
    ``(1 - least_margin)`` times the best positive among the hits. Of these, ``negatives`` are drawn uniformly; each
    beginning of the list is a uniform draw, too. Negatives and scores that the examples had before are left out.

    An interrupted run that is started again goes on where it was, to the same bytes; see `ChunkedOutput`.

    Args:
        config: The phase's settings; ``output`` is a file ``*.jsonl`` or ``*.jsonl.gz`` in Tevatron's format.
        overwrite: Whether the output may be replaced.
        progress: Told how many more examples are done, and whether they were done in this run.

    Raises:
        UsageError: The output exists, or the settings contradict each other.
        DataError: An example or a document is broken, or there are none.
        LlmSparseError: What the search, the encoder and the readers raise.
    """
    started = time.monotonic()
    require_new_output(config.output, overwrite)
    register()  # BM25 and impact indexes are searched by Pyserini's libraries
    if config.first_rank > config.hits:
        raise UsageError(f"first_rank: {config.first_rank}: beyond the {config.hits} hits; lower it, or raise hits")
    encoder = None
    if config.encoder != BM25:
        from pyserini_llm_sparse.encoder import SparseEncoder

        encoder = SparseEncoder.load(config.encoder)
    with ChunkedOutput(config.output, _identity(config, encoder), overwrite) as output:
        if not MiningStore.is_built(output.work):
            MiningStore.build(output.work, _examples(config), _examples(config), config.corpus)
        with MiningStore(output.work) as store:
            if config.least_margin is not None and not store.relevant:
                raise DataError(
                    f"{config.corpus}: holds none of the positives: least_margin compares with their scores; add them, "
                    "or leave least_margin out"
                )
            with _opened(config, encoder, output.work, store) as retriever:
                chunks = _mine_chunks(config, store, retriever, output, progress or (lambda count, now: None))
            documents = store.documents
        counts = output.finish(chunks)
    if counts["without_negatives"]:
        _logger.warning(
            "%s: %d examples have no negative, and training with negatives will leave them out: raise hits, or lower "
            "first_rank or least_margin",
            config.output, counts["without_negatives"],
        )  # fmt: skip
    fields = ("examples", "negatives", "short", "without_negatives", "positive_not_found")
    return MineReport(
        config.output,
        documents=documents,
        seconds=time.monotonic() - started,
        **{name: counts[name] for name in fields},
    )


def candidates(
    hits: Sequence[Hit], relevant: Collection[str], first_rank: int, least_margin: float | None
) -> list[str]:
    """Return the ids of the hits that may be negatives, best first.

    A positive that is not among the hits scores no more than any of them, so with a margin none may be.

    Args:
        hits: What was found, best first.
        relevant: Ids of documents that are relevant to the query.
        first_rank: Highest rank, from 1.
        least_margin: Relative distance to the best positive's score; None for any score.
    """
    most = float("inf")
    if least_margin is not None:
        best = next((hit.score for hit in hits if hit.document_id in relevant), None)
        most = float("-inf") if best is None else (1 - least_margin) * best
    return [hit.document_id for hit in hits[first_rank - 1 :] if hit.document_id not in relevant and hit.score <= most]


def _examples(config: MineConfig) -> Iterator[Example]:
    return itertools.chain.from_iterable(map(read_examples, config.train))


def _identity(config: MineConfig, encoder: SparseEncoder | None) -> dict[str, Any]:
    """All that the output depends on."""
    return {
        "phase": "mine",
        **config.model_dump(mode="json", exclude={"output", "threads"}),
        "train": source_fingerprints(config.train),
        "corpus": config.corpus and [file.model_dump() for file in corpus_identity(config.corpus)],
        "spec": encoder and encoder.spec.model_dump(mode="json"),
    }


class _Retriever(Protocol):
    """Searches many queries at once."""

    def search(self, queries: Mapping[str, str], hits: int) -> Mapping[str, Sequence[Hit]]:
        """Return the best hits of each query by its id; one that finds nothing may be missing."""


@dataclass
class _BM25Retriever:
    index: BM25Index
    threads: int

    def search(self, queries: Mapping[str, str], hits: int) -> Mapping[str, Sequence[Hit]]:
        return self.index.search_batch(queries, hits, self.threads)


@dataclass
class _EncoderRetriever:
    index: LuceneIndex
    encoder: SparseEncoder
    threads: int

    def search(self, queries: Mapping[str, str], hits: int) -> Mapping[str, Sequence[Hit]]:
        impacts = self.encoder.query_impacts(list(queries.values()))
        vectors = {name: vector for name, vector in zip(queries, impacts, strict=True) if vector}
        return self.index.search_batch(vectors, hits, self.threads) if vectors else {}


@contextlib.contextmanager
def _opened(config: MineConfig, encoder: SparseEncoder | None, work: Path, store: MiningStore) -> Iterator[_Retriever]:
    """Index the documents unless that is done already, and open the index."""
    path, done, vectors = work / "index", work / "index.done", work / "vectors"
    if not done.exists():
        _logger.info("%s: indexing %d documents", config.output, store.documents)
        if encoder is None:
            index_texts(store.folder, path, threads=config.threads, count=store.documents)
        else:
            encode_corpus(encoder, store.folder, vectors)
            index(vectors, path, threads=config.threads)
        done.touch()
        shutil.rmtree(vectors, ignore_errors=True)
    if encoder is None:
        with BM25Index(path) as texts:
            yield _BM25Retriever(texts, config.threads)
    else:
        with LuceneIndex(path) as impacts:
            yield _EncoderRetriever(impacts, encoder, config.threads)


def _mine_chunks(
    config: MineConfig, store: MiningStore, retriever: _Retriever, output: ChunkedOutput, progress: Progress
) -> int:
    """Mine the chunks that are not done. Returns the number of all chunks."""
    examples = enumerate(_examples(config))
    chunk = -1
    while numbered := list(itertools.islice(examples, CHUNK)):
        chunk += 1
        if output.done(chunk):
            progress(len(numbered), False)
            continue
        found = retriever.search({str(number): example.query for number, example in numbered}, config.hits)
        lines, counts = [], Counter({"examples": len(numbered)})
        for number, example in numbered:
            hits = found.get(str(number), ())
            relevant = store.relevant_ids(example.query)
            ids, texts = _drawn(config, store, number, example, candidates(
                hits, relevant, config.first_rank, config.least_margin
            ))  # fmt: skip
            lines.append(example_line(replace(
                example, negatives=tuple(texts), negative_ids=tuple(ids), positive_scores=(), negative_scores=()
            )))  # fmt: skip
            counts["negatives"] += len(ids)
            counts["short"] += len(ids) < config.negatives
            counts["without_negatives"] += not ids
            counts["positive_not_found"] += not any(hit.document_id in relevant for hit in hits)
        output.write(chunk, b"".join(lines), counts)
        progress(len(numbered), True)
    return chunk + 1


def _drawn(
    config: MineConfig, store: MiningStore, number: int, example: Example, allowed: list[str]
) -> tuple[list[str], list[str]]:
    """Draw negatives of different texts, by the seed and the example's number. Returns their ids and texts."""
    random.Random(f"{config.seed} {number}").shuffle(allowed)
    seen = {text_key(example.query)}
    ids: list[str] = []
    texts: list[str] = []
    for identifier in allowed:
        if len(ids) == config.negatives:
            break
        key, offset = store.document(identifier)
        if key not in seen:
            seen.add(key)
            ids.append(identifier)
            texts.append(store.text(offset))
    return ids, texts
