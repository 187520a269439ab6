"""Retrieval measures of a model in training: brute force over the vectors that an index of it would hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Tensor, nn

from pyserini_llm_sparse.errors import DataError, RunError, UsageError
from pyserini_llm_sparse.files.measures import parse_measure
from pyserini_llm_sparse.modelling.encoding import batches_of
from pyserini_llm_sparse.modelling.engine import best_batch_tokens
from pyserini_llm_sparse.modelling.spec import EncodingSpec, Side
from pyserini_llm_sparse.modelling.tokenization import Tokenization, TokenizedText
from pyserini_llm_sparse.modelling.torch_engine import collected
from pyserini_llm_sparse.modelling.vectors import SparseVectors
from pyserini_llm_sparse.training.results.development_set import DevelopmentSet

DEPTH = 1000
MEASURES = ("nDCG@10", "RR@10", "R@100")  # besides the one that the run file names
MOST_TERMS = 4096  # kept of a vector: an untrained model has a hundred thousand, which fill the memory for nothing
SCORES_AT_A_TIME = 1 << 24

Vectors = SparseVectors | NDArray[np.float32]


def parse_measures(measure: str) -> dict[str, Any]:
    """Return `MEASURES` and one more as objects of ir_measures, by name, the one as it was written.

    To be called early, so that a name is refused before training.

    Raises:
        PrerequisiteError: ir_measures is not installed.
        UsageError: There is no such measure.
    """
    try:
        return {name: parse_measure(name) for name in (measure, *MEASURES)}
    except UsageError as error:
        raise UsageError(f"dev_metric: {error}") from error


class Measures(dict[str, float]):
    """Measures by name.

    Attributes:
        by_query: Those of retrieval for each query, of each development set an array ``[queries]``.
    """

    by_query: dict[str, list[NDArray[np.float64]]]


def mean_measures(found: Mapping[str, Measures]) -> Measures:
    """Return the means over development sets, and of several also the measures of each: ``<measure> <set's name>``."""
    names = dict.fromkeys(name for measures in found.values() for name in measures)
    means = Measures({name: sum(one[name] for one in found.values()) / len(found) for name in names})
    by_query = dict.fromkeys(name for measures in found.values() for name in measures.by_query)
    means.by_query = {name: [values for one in found.values() for values in one.by_query[name]] for name in by_query}
    for place, measures in found.items() if len(found) > 1 else ():
        means |= {f"{name} {place}": measures[name] for name in by_query}
    return means


@torch.no_grad()  # not inference_mode: FSDP gathers its shards into tensors that training uses again
def evaluate(
    model: nn.Module,
    tokenization: Tokenization,
    development: DevelopmentSet,
    measure: str = "nDCG@10",
    batch_size: int = 32,
    accelerator: Any = None,
    *,
    own_terms_only: bool = False,
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> Measures:
    """Measure a model on a development set; in several processes, all of them must call it.

    Sparse vectors are what Lucene would see: top-k and impacts as the encoding spec says (a vector of more than
    `MOST_TERMS` terms is cut to the heaviest). Documents that share no term with a query are not retrieved; equal
    scores are ordered by document id, as Anserini does.

    Args:
        model: A `RetrievalModel`, also one that is wrapped for several processes. Its mode is put back.
        tokenization: Under the model's encoding spec.
        development: What it is measured on.
        measure: One measure of ir_measures, besides `MEASURES`.
        batch_size: Most texts that go through the model at a time.
        accelerator: An `accelerate.Accelerator`; every process encodes its share.
        own_terms_only: Whether to measure (sparse vectors) once more with queries and documents reduced to the terms
            that occur in their texts, which tells re-weighting from expansion.
        autocast: Makes the context in which the model computes, such as ``accelerator.autocast``.

    Returns:
        The measures by name; for sparse vectors also ``query_active_terms`` and ``document_active_terms`` (means),
        and the measures again as ``<measure> own terms`` if asked for.

    Raises:
        RunError: A weight is not finite.
        UsageError: There is no such measure.
    """
    measures = parse_measures(measure)
    processes, rank = (accelerator.num_processes, accelerator.process_index) if accelerator is not None else (1, 0)
    is_dense = _unwrapped(model).representation == "dense"
    device = accelerator.device if accelerator is not None else next(model.parameters()).device
    encoder = _ShareEncoder(model, tokenization, device, batch_size, processes, rank, is_dense, autocast)
    was_training = model.training
    model.eval()
    try:
        queries, query_terms = encoder.encode(development.queries, "query")
        documents, document_terms = encoder.encode(development.documents, "document")
    finally:
        model.train(was_training)
    values = _measured(queries, documents, development, measures, processes, rank)
    if not is_dense:
        values.update({"query_active_terms": query_terms, "document_active_terms": document_terms})
    if own_terms_only and isinstance(queries, SparseVectors) and isinstance(documents, SparseVectors):
        term_of = _unwrapped(model).term_of
        own_queries = _own_terms(queries, development.queries, "query", tokenization, term_of)
        own_documents = _own_terms(documents, development.documents, "document", tokenization, term_of)
        found = _measured(own_queries, own_documents, development, measures, processes, rank)
        values.update({f"{name} own terms": value for name, value in found.items()})
    return values


def _unwrapped(model: Any) -> Any:
    """Return the `RetrievalModel` inside what DDP, FSDP or a compiler made of it."""
    while not hasattr(model, "representation") and hasattr(model, "module"):
        model = model.module
    return model


@dataclass(frozen=True)
class _ShareEncoder:
    """Encodes one process's share of the texts, in as many batches as every other process, and gathers all shares."""

    model: nn.Module
    tokenization: Tokenization
    device: torch.device
    batch_size: int
    processes: int
    rank: int
    is_dense: bool
    autocast: Callable[[], AbstractContextManager[Any]]

    def encode(self, texts: Sequence[str], side: Side) -> tuple[Vectors, float]:
        """Return the vectors of all texts in their order, and their mean number of terms."""
        tokenised = self.tokenization.token_ids(texts, side)
        filled = [number for number, text in enumerate(tokenised) if text.ids]
        filled.sort(key=lambda number: -len(tokenised[number].ids))
        lengths = [len(text.ids) for text in tokenised]
        tokens = best_batch_tokens(self.device.type, threads=1)  # every process must come to the same batches
        batches = list(batches_of(filled, lengths, self.batch_size, tokens))
        # A forward pass of a sharded model is a joint act: every process makes the same number of them.
        rounds = -(-len(batches) // self.processes)
        own: list[tuple[list[int], Vectors, float]] = []
        for turn in range(rounds):
            number = turn * self.processes + self.rank
            texts_of_batch = batches[min(number, len(batches) - 1)]
            vectors, active = self._forward([tokenised[text] for text in texts_of_batch], side)
            if number < len(batches):
                own.append((texts_of_batch, vectors, active))
        parts = _gathered(own, self.processes)
        if not parts:
            raise DataError(f"development set: no {side} has content for the tokenizer; check its files")
        place = np.full(len(texts), len(filled), dtype=np.int64)
        place[[number for numbers, _, _ in parts for number in numbers]] = np.arange(len(filled))
        mean_terms = sum(active for _, _, active in parts) / len(texts)
        return _stacked([vectors for _, vectors, _ in parts])[place], mean_terms

    def _forward(self, texts: list[TokenizedText], side: Side) -> tuple[Vectors, float]:
        """Encode one batch. Returns the vectors, and the number of their terms."""
        batch = self.tokenization.batch(texts, "right", self.device)
        with self.autocast():
            output: Tensor = self.model(**{f"{side}_{name}": tensor for name, tensor in batch._asdict().items()})[
                0 if side == "query" else 1
            ]
        if not bool(torch.isfinite(output).all()):
            raise RunError(
                f"evaluation: a {side} vector is not finite: the model has diverged or overflows; lower "
                "trainer.learning_rate, or use trainer: {bf16: true} in place of fp16"
            )
        if self.is_dense:
            return output.float().cpu().numpy(), 0.0
        return _impacts(output.float(), self.tokenization.spec, side)


def _impacts(weights: Tensor, spec: EncodingSpec, side: Side) -> tuple[SparseVectors, float]:
    """Quantise weights ``[batch, vocabulary]``. Returns the impacts and the number of terms of all rows."""
    kept = weights * spec.impact_factor > 0.5  # the others' impact rounds to 0, 0.5 included
    most = spec.top_k(side) or weights.shape[1]
    active = float(kept.sum(1).clamp(max=most).sum())
    return collected(weights, kept, min(most, MOST_TERMS)).impacts(spec.impact_factor, spec.impact_maximum), active


def _stacked(parts: list[Vectors]) -> Vectors:
    """Put the parts below each other, and last a row for the texts without content."""
    if isinstance(parts[0], SparseVectors):
        sparse = [part for part in parts if isinstance(part, SparseVectors)]
        return SparseVectors.concatenate([*sparse, SparseVectors.empty(1, parts[0].vocabulary_size)])
    dense = [part for part in parts if not isinstance(part, SparseVectors)]
    return np.concatenate([*dense, np.zeros((1, dense[0].shape[1]), np.float32)])


def _own_terms(
    vectors: SparseVectors, texts: Sequence[str], side: Side, tokenization: Tokenization, term_of: Tensor | None
) -> SparseVectors:
    """Reduce vectors to the terms that occur in their texts, prefix and special tokens not counted."""
    plain = Tokenization(tokenization.tokenizer, tokenization.spec.replace(pooled_span="text"), vectors.vocabulary_size)
    own = [np.array(ids[pool.start : pool.stop], dtype=np.int64) for ids, pool in plain.token_ids(texts, side)]
    own = [np.unique(ids if term_of is None else term_of.cpu().numpy()[ids]) for ids in own]
    occurs = SparseVectors.from_rows(own, [np.ones(len(ids)) for ids in own], vectors.vocabulary_size)
    reduced = csr_array(vectors.matrix.multiply(occurs.matrix))
    reduced.eliminate_zeros()
    reduced.sort_indices()
    return SparseVectors(reduced)


def _measured(
    queries: Vectors,
    documents: Vectors,
    development: DevelopmentSet,
    measures: dict[str, Any],
    processes: int,
    rank: int,
) -> Measures:
    """Search for one process's share of the queries, gather the rankings, and return the measures of all of them."""
    import ir_measures

    own = range(rank, len(development.queries), processes)
    rankings = _gathered(list(zip(own, _rankings(queries, documents, development, own), strict=True)), processes)
    run = {
        # Ranks as scores: trec_eval would order equal scores in its own way.
        development.query_ids[number]: {document: float(-place) for place, document in enumerate(ranking)}
        for number, ranking in rankings
    }
    found: Any = ir_measures.calc(list(set(measures.values())), development.qrels, run)
    values = Measures({name: float(found.aggregated[measure]) for name, measure in measures.items()})
    places = {query: place for place, query in enumerate(development.query_ids)}
    by_query = {name: np.zeros(len(places)) for name in measures}
    for one in found.per_query:
        for name in (name for name, measure in measures.items() if measure == one.measure):
            by_query[name][places[one.query_id]] = one.value
    values.by_query = {name: [scores] for name, scores in by_query.items()}
    return values


def _rankings(
    queries: Vectors, documents: Vectors, development: DevelopmentSet, numbers: Sequence[int]
) -> Iterator[list[str]]:
    """Yield the ids of the best `DEPTH` documents of each query, best first, equal scores by id."""
    by_id = sorted(range(len(development.document_ids)), key=development.document_ids.__getitem__)
    ids = np.array([development.document_ids[number] for number in by_id], dtype=object)
    index = documents[np.array(by_id)]
    transposed = csr_array(index.matrix.astype(np.float64).T) if isinstance(index, SparseVectors) else index.T
    step = max(1, SCORES_AT_A_TIME // len(ids))
    for start in range(0, len(numbers), step):
        block = queries[np.array(numbers[start : start + step])]
        if isinstance(block, SparseVectors):
            scores = (block.matrix.astype(np.float64) @ transposed).toarray()
        else:
            scores = block @ transposed
        for row in scores:
            candidates = np.flatnonzero(row > 0) if isinstance(block, SparseVectors) else np.arange(len(row))
            if len(candidates) > DEPTH:
                last = np.partition(row[candidates], -DEPTH)[-DEPTH]
                candidates = candidates[row[candidates] >= last]
            best = candidates[np.argsort(-row[candidates], kind="stable")][:DEPTH]
            yield ids[best].tolist()


def _gathered(own: list[Any], processes: int) -> list[Any]:
    """Return the items of all processes."""
    if processes == 1:
        return own
    from accelerate.utils import gather_object

    items: list[Any] = gather_object(own)
    return items
