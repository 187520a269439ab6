"""The order of training: seeded, another one in each epoch, the same after a resume, equal texts in different batches.

An epoch must reach what is drawn for an example, in data loader workers too, and accelerate passes it on to either the
sampler or the dataset, depending on how the loader is wrapped. Here both share it, and an index carries it along: index
``epoch * len(dataset) + i`` means example i in that epoch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from random import Random
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset, Sampler

DRAWS = 16  # of a block by chance, before all are gone through
Item = TypeVar("Item", covariant=True)


class EpochDataset(Dataset[Item], Generic[Item]):
    """A dataset in memory whose items may differ from epoch to epoch."""

    epoch: int = 0

    def __len__(self) -> int:
        raise NotImplementedError

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, from 0, that samplers of this dataset give out next."""
        self.epoch = epoch

    def place(self, index: int) -> tuple[int, int]:
        """Return epoch and number of an example from an index that a sampler gave out.

        Raises:
            IndexError: The dataset is empty, or the index negative or beyond what a plain loop over it asks for.
        """
        if index < 0 or not len(self):
            raise IndexError(f"no example {index} in a dataset of {len(self)}")
        return divmod(index, len(self))


class EpochSampler(Sampler[int]):
    """Gives out each example of a dataset once an epoch, in an order that seed and epoch decide."""

    def __init__(self, dataset: EpochDataset[Item], seed: int) -> None:
        self.dataset, self.seed = dataset, seed % 2**63  # numpy takes no negative ones

    def __len__(self) -> int:
        return len(self.dataset)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, from 0, that is given out next."""
        self.dataset.set_epoch(epoch)

    def __iter__(self) -> Iterator[int]:
        epoch = self.dataset.epoch
        first = epoch * len(self.dataset)
        for number in self.order(epoch):
            yield first + int(number)

    def order(self, epoch: int) -> Sequence[int] | NDArray[np.int64]:
        """Return the numbers of the examples in the order of an epoch."""
        return np.random.default_rng([self.seed, epoch]).permutation(len(self.dataset))


class DistinctSampler(EpochSampler):
    """Keeps examples with equal texts apart, since in a step the documents of others count as not relevant.

    Each block of consecutive examples, the first starting at 0, holds a text at most once; a text that more examples
    have than there are blocks is spread evenly over them. Where that cannot be done, equal texts meet.
    """

    def __init__(self, dataset: EpochDataset[Item], seed: int, block: int, keys: Sequence[Sequence[int]]) -> None:
        """Find the texts that several examples have.

        Args:
            dataset: What is given out.
            seed: Seed of the order.
            block: Examples that meet in a step: batch size per device x processes x accumulation steps.
            keys: For each example the keys of its texts.
        """
        super().__init__(dataset, seed)
        self.block = max(1, block)
        self._blocks = -(-len(dataset) // self.block)
        times = Counter(key for own in keys for key in set(own))
        # Those with the most frequent texts choose their blocks first. Only texts that others have too matter.
        shared = [[key for key in set(own) if times[key] > 1] for own in keys]
        choosing = [number for number, own in enumerate(shared) if own]
        self._choosing = sorted(choosing, key=lambda number: -max(times[key] for key in shared[number]))
        self._shared = shared
        self._most = {key: -(-count // self._blocks) for key, count in times.items() if count > 1}

    def order(self, epoch: int) -> list[int]:
        """Return the numbers of the examples in the order of an epoch."""
        chance = Random(f"{self.seed} {epoch}")
        room = [self.block] * self._blocks
        if self._blocks:
            room[-1] = len(self.dataset) - (self._blocks - 1) * self.block
        blocks: list[list[int]] = [[] for _ in room]
        inside: dict[int, Counter[int]] = {}  # of each text, how often a block has it
        for number in self._choosing:
            place = self._place(number, blocks, room, inside, chance)
            blocks[place].append(number)
            for key in self._shared[number]:
                inside.setdefault(key, Counter())[place] += 1
        others = (number for number in map(int, super().order(epoch)) if not self._shared[number])
        for block, size in zip(blocks, room, strict=True):
            block += islice(others, size - len(block))
            chance.shuffle(block)
        return [number for block in blocks for number in block]

    def _place(
        self, number: int, blocks: list[list[int]], room: list[int], inside: dict[int, Counter[int]], chance: Random
    ) -> int:
        """Return a block for an example that shares texts with others: by chance, else the next one that will do."""
        own = [(self._most[key], inside[key]) for key in self._shared[number] if key in inside]

        def fits(place: int) -> bool:
            return len(blocks[place]) < room[place] and all(had[place] < most for most, had in own)

        for _ in range(DRAWS):
            if fits(place := chance.randrange(len(blocks))):
                return place
        start = chance.randrange(len(blocks))
        around = [*range(start, len(blocks)), *range(start)]
        found = next((place for place in around if fits(place)), None)
        if found is None:
            found = next(place for place in around if len(blocks[place]) < room[place])
        return found
