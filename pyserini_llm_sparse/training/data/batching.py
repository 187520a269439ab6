"""Training examples as batches: which positive and negatives are drawn, as token ids, with the keys of their texts."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from pyserini_llm_sparse.errors import DataError
from pyserini_llm_sparse.modelling.spec import Side
from pyserini_llm_sparse.modelling.tokenization import Batch, Tokenization
from pyserini_llm_sparse.training.config.fields import RetrieveConfig
from pyserini_llm_sparse.training.data.drawing import Group, draw
from pyserini_llm_sparse.training.data.examples import Example, text_key
from pyserini_llm_sparse.training.data.sampling import DistinctSampler, EpochDataset
from pyserini_llm_sparse.training.data.source_files import parts
from pyserini_llm_sparse.training.data.sources import read_examples

SHUFFLE_BUFFER = 4096
TEXTS_OF_A_GROUP = 4  # at least; fewer keep no processor busy


class EpochExample(NamedTuple):
    """An example in an epoch, which decides what is drawn of it, with the keys of other examples' positives."""

    example: Example
    epoch: int
    positive_keys: tuple[int, ...] = ()


class ExampleDataset(EpochDataset[EpochExample]):
    """Examples in memory; equal documents are held once.

    An example comes with the keys of all positives of its query, also of those that stand in other examples.
    """

    def __init__(
        self, examples: Iterable[Example], select: Callable[[Iterator[Example]], Iterator[Example]] = iter
    ) -> None:
        """Hold the examples that are selected; what is relevant to a query is known from all.

        Args:
            examples: All examples.
            select: Yields those that the run can learn from, see `drawing.usable_examples`.

        Raises:
            DataError: There are none.
        """
        known: dict[str, str] = {}
        self._judged: dict[int, tuple[int, ...]] = {}
        several: set[int] = set()
        self.examples = [_sharing(example, known) for example in select(self._noted(examples, several))]
        self._judged = {query: self._judged[query] for query in several}
        if not self.examples:
            raise DataError("train: no training examples: the sources hold none; check the paths")

    def _noted(self, examples: Iterable[Example], several: set[int]) -> Iterator[Example]:
        """Pass examples on, and keep their positives' keys by their query, and the queries that several have."""
        for example in examples:
            query, positives = text_key(example.query), tuple(map(text_key, example.positives))
            before = self._judged.get(query)
            if before is not None:
                several.add(query)
                positives = tuple(dict.fromkeys((*before, *positives)))
            self._judged[query] = positives
            yield example

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> EpochExample:
        epoch, number = self.place(index)
        example = self.examples[number]
        return EpochExample(example, epoch, self._judged.get(text_key(example.query), ()))

    def sampler(self, seed: int, block: int) -> DistinctSampler:
        """Return the sampler that keeps equal queries and equal positives out of a block of examples.

        Args:
            seed: Seed of the order.
            block: Examples that meet in a step: batch size per device x processes x accumulation steps.
        """
        keys = [tuple(map(text_key, (example.query, *example.positives))) for example in self.examples]
        return DistinctSampler(self, seed, block, keys)


def _all_of_them(examples: Iterator[Example], say: bool) -> Iterator[Example]:
    return examples


class StreamedExamples(IterableDataset[EpochExample]):
    """Examples read while training goes on, mixed from all files and shuffled in a buffer; the same in each process.

    Files take turns by chance, as often as their sizes say, so that they end at about the same time. Each process must
    read the whole stream and take its share of it: accelerate does so with ``dispatch_batches: false``.
    """

    def __init__(
        self,
        sources: Sequence[str],
        seed: int,
        buffer: int = SHUFFLE_BUFFER,
        select: Callable[[Iterator[Example], bool], Iterator[Example]] = _all_of_them,
    ) -> None:
        """Prepare the stream.

        Args:
            sources: What `sources.read_examples` takes.
            seed: Seed of the order.
            buffer: Examples of which the next one is drawn.
            select: Yields those that the run can learn from, and says in the first pass how many others there are.

        Raises:
            LlmSparseError: A source is not there.
        """
        self.parts = [part for source in sources for part in parts(source)]
        self.seed, self.buffer, self.epoch, self.select = seed, max(1, buffer), 0, select

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, from 0, of the next pass over the stream."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[EpochExample]:
        worker = get_worker_info()
        step, offset = (worker.num_workers, worker.id) if worker else (1, 0)
        for number, example in enumerate(self._shuffled(say=not self.epoch and not offset)):
            if number % step == offset:
                yield EpochExample(example, self.epoch)

    def _shuffled(self, say: bool) -> Iterator[Example]:
        chance = random.Random(f"{self.seed} {self.epoch}")
        buffer: list[Example] = []
        for example in self.select(self._mixed(chance), say):
            if len(buffer) < self.buffer:
                buffer.append(example)
                continue
            place = chance.randrange(len(buffer))
            yield buffer[place]
            buffer[place] = example
        chance.shuffle(buffer)
        yield from buffer

    def _mixed(self, chance: random.Random) -> Iterator[Example]:
        sizes = {part: Path(part).stat().st_size for part in self.parts if Path(part).is_file()}
        average = sum(sizes.values()) / len(sizes) if sizes else 1.0
        weights = [float(max(1, sizes.get(part, average))) for part in self.parts]
        streams = [read_examples(part) for part in self.parts]
        while streams:
            place = chance.choices(range(len(streams)), weights)[0]
            example = next(streams[place], None)
            if example is None:
                del streams[place], weights[place]
            else:
                yield example


class RetrievalCollator:
    """Makes a batch of examples; see `__call__` for its tensors."""

    def __init__(self, tokenization: Tokenization, config: RetrieveConfig) -> None:
        """Prepare for a run.

        Args:
            tokenization: Tokenises under the spec that is trained.
            config: Says how many negatives an example has, whether a teacher's scores are needed, and the seed.
        """
        self.tokenization, self.config, self.epoch = tokenization, config, 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of examples that do not bring their own, as those of the datasets here do."""
        self.epoch = epoch

    def __call__(self, examples: Sequence[Example | EpochExample]) -> dict[str, Any]:
        """Draw documents for each example and tokenise all texts, padded on the right.

        With B examples and n negatives each, the documents of example i are the rows ``i * (1 + n)`` to
        ``(i + 1) * (1 + n) - 1``, its positive first.

        Returns:
            ``query_input_ids``, ``query_attention_mask``, ``query_pool_mask``: int64 ``[B, query length]``;
            ``document_input_ids``, ``document_attention_mask``, ``document_pool_mask``: int64 ``[B * (1 + n), document
            length]``; ``query_keys``: int64 ``[B]`` and ``document_keys``: int64 ``[B * (1 + n)]``, equal where texts
            are; ``positive_keys``: int64 ``[B, most]``, the keys of all documents that are judged relevant to a query,
            in ascending order, the last one repeated; where the run needs them ``teacher_scores``: float32
            ``[B, 1 + n]``; and for each side that goes through the model in groups, see `length_groups`.

        Raises:
            DataError: An example has no negative where one is needed, or no scores, or a text gives no token.
        """
        drawn = [each if isinstance(each, EpochExample) else EpochExample(each, self.epoch) for each in examples]
        groups = [self.group(each.example, each.epoch) for each in drawn]
        sources = [each.example for each in drawn]
        queries = [example.query for example in sources]
        documents = [text for group in groups for text in group.documents]
        owners = [example for example in sources for _ in range(1 + self.config.negatives)]
        batch: dict[str, Any] = {
            **self._side("query", self._tokenised(queries, "query", sources)),
            **self._side("document", self._tokenised(documents, "document", owners)),
            "query_keys": torch.tensor([text_key(text) for text in queries], dtype=torch.long),
            "document_keys": torch.tensor([text_key(text) for text in documents], dtype=torch.long),
            "positive_keys": _sets([{*map(text_key, each.example.positives), *each.positive_keys} for each in drawn]),
        }
        if self.config.needs_scores:
            batch["teacher_scores"] = torch.tensor([group.scores for group in groups], dtype=torch.float32)
        return batch

    def group(self, example: Example, epoch: int) -> Group:
        """Draw the documents of an example for an epoch; see `drawing.draw`."""
        return draw(example, epoch, self.config)

    def _side(self, side: Side, batch: Batch) -> dict[str, Any]:
        named = {f"{side}_{name}": tensor for name, tensor in batch._asdict().items()}
        if self.config.gradient_cache_size is not None:  # which cuts the batch by length itself
            return named
        return named | length_groups(side, batch.attention_mask, self.config.length_groups)

    def _tokenised(self, texts: list[str], side: Side, owners: Sequence[Example]) -> Batch:
        tokenised = self.tokenization.token_ids(texts, side)
        for text, ids, example in zip(texts, tokenised, owners, strict=True):
            if not ids.ids:
                raise DataError(
                    f"{example.where}: a {side} without tokens: the tokenizer makes none of {text[:60]!r}; correct or "
                    "remove the line"
                )
        return self.tokenization.batch(tokenised)


def length_groups(side: Side, attention_mask: Tensor, most: int) -> dict[str, Any]:
    """Say how the texts of a batch go through the model in groups of similar length, each with its own padding.

    The number of groups follows from the number of texts alone, so that it is the same in each process, as sharded
    models need it.

    Args:
        side: ``query`` or ``document``.
        attention_mask: ``[texts, length]``, on the CPU, padded on the right.
        most: The number of groups where there are texts enough.

    Returns:
        ``SIDE_order``, int64 ``[texts]``: the texts from the longest to the shortest; and ``SIDE_widths``: the length
        of each group, where the groups are that order cut by `torch.tensor_split`. Nothing if there is one group only.
    """
    count = min(most, len(attention_mask) // TEXTS_OF_A_GROUP)
    if count < 2:
        return {}
    lengths = attention_mask.sum(1)
    order = lengths.argsort(descending=True, stable=True)
    return {f"{side}_order": order, f"{side}_widths": [int(lengths[rows[0]]) for rows in order.tensor_split(count)]}


def _sets(sets: Sequence[set[int]]) -> Tensor:
    """Return sets of keys as int64 ``[sets, most]``, each in ascending order, its last key filling its row."""
    most = max(map(len, sets))
    rows = [sorted(one) for one in sets]
    return torch.tensor([row + row[-1:] * (most - len(row)) for row in rows], dtype=torch.long)


def _sharing(example: Example, known: dict[str, str]) -> Example:
    """Return an example whose documents are the objects of equal ones before it."""
    if not example.negatives:
        return example
    return replace(
        example,
        positives=tuple(known.setdefault(text, text) for text in example.positives),
        negatives=tuple(known.setdefault(text, text) for text in example.negatives),
    )
