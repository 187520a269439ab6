"""Hard negatives: for each query, documents that BM25 or one of our encoders ranks high and nobody judged relevant."""

from __future__ import annotations

import itertools
import logging
import random
import time
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyserini_llm_sparse.errors import DataError, UsageError
from pyserini_llm_sparse.files.digests import file_sha256
from pyserini_llm_sparse.files.lines import open_bytes
from pyserini_llm_sparse.indexing.lucene import Hit
from pyserini_llm_sparse.indexing.vectors.identity import corpus_identity
from pyserini_llm_sparse.plugin import register
from pyserini_llm_sparse.training.config.fields import MineConfig
from pyserini_llm_sparse.training.data.examples import Example, example_line
from pyserini_llm_sparse.training.data.sources import read_examples, source_fingerprints
from pyserini_llm_sparse.training.preparation.chunked_output import ChunkedOutput, Progress, require_new_output
from pyserini_llm_sparse.training.preparation.mining_store import MiningStore, text_key
from pyserini_llm_sparse.training.preparation.retrievers import BM25, Retriever, existing_index, opened

if TYPE_CHECKING:
    from pyserini_llm_sparse.encoder import SparseEncoder

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
    if config.encoder != BM25 and config.run is not None:
        raise UsageError(f"run: {config.run}: nothing is searched, so encoder: {config.encoder} has no use; name one")
    folder = existing_index(config)
    if config.encoder != BM25:
        from pyserini_llm_sparse.encoder import SparseEncoder

        encoder = SparseEncoder.load(config.encoder)
    with ChunkedOutput(config.output, _identity(config, encoder, folder), overwrite) as output:
        if not MiningStore.is_built(output.work):
            MiningStore.build(output.work, _examples(config), _examples(config), config.corpus)
        with MiningStore(output.work) as store:
            if config.least_margin is not None and not store.relevant:
                raise DataError(
                    f"{config.corpus}: holds none of the positives: least_margin compares with their scores; add them, "
                    "or leave least_margin out"
                )
            with opened(config, encoder, output.work, store, folder) as retriever:
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


def _identity(config: MineConfig, encoder: SparseEncoder | None, folder: Path | None) -> dict[str, Any]:
    """All that the output depends on."""
    return {
        "phase": "mine",
        **config.model_dump(mode="json", exclude={"output", "threads"}),
        "train": source_fingerprints(config.train),
        "corpus": config.corpus and [file.model_dump() for file in corpus_identity(config.corpus)],
        # Lucene names the segments of an index at random, so that the list of them names the index.
        "index": folder and [file_sha256(path) for path in sorted(folder.glob("segments_*"))],
        "run": config.run and _digest(Path(config.run)),
        "spec": encoder and encoder.spec.model_dump(mode="json"),
    }


def _digest(path: Path) -> str:
    open_bytes(path).close()  # says that it is not there
    return file_sha256(path)


def _mine_chunks(
    config: MineConfig, store: MiningStore, retriever: Retriever, output: ChunkedOutput, progress: Progress
) -> int:
    """Mine the chunks that are not done. Returns the number of all chunks."""
    examples = enumerate(_examples(config))
    chunk = -1
    while numbered := list(itertools.islice(examples, CHUNK)):
        chunk += 1
        if output.done(chunk):
            progress(len(numbered), False)
            continue
        found = retriever.search({str(number): example for number, example in numbered}, config.hits)
        lines, counts = [], Counter({"examples": len(numbered)})
        for number, example in numbered:
            hits = found.get(str(number), ())
            relevant = store.relevant_ids(example.query)
            ids, texts = _drawn(config, store, retriever, number, example, candidates(
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
    config: MineConfig, store: MiningStore, retriever: Retriever, number: int, example: Example, allowed: list[str]
) -> tuple[list[str], list[str]]:
    """Draw negatives of different texts, by the seed and the example's number. Returns their ids and texts."""
    random.Random(f"{config.seed} {number}").shuffle(allowed)
    seen = {text_key(example.query), *store.relevant_texts(example.query)}
    elsewhere = config.corpus is None and config.index is not None
    ids: list[str] = []
    texts: list[str] = []
    for identifier in allowed:
        if len(ids) == config.negatives:
            break
        text = retriever.text(identifier) if elsewhere else store.text_of(identifier)
        if text is None:
            where = config.index if elsewhere else config.corpus or "the examples' positives"
            raise DataError(
                f"{config.run or config.index}: document {identifier!r} was found, and {where} has no text of it; name "
                "the corpus that was searched"
            )
        key = text_key(text)
        if key not in seen:
            seen.add(key)
            ids.append(identifier)
            texts.append(text)
    return ids, texts
