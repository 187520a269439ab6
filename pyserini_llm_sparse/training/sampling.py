"""The order of training: seeded, another one in each epoch, the same after a resume, equal texts in different batches.

An epoch must reach what is drawn for an example, in data loader workers too, and accelerate passes it on to either the
sampler or the dataset, depending on how the loader is wrapped. Here both share it, and an index carries it along: index
``epoch * len(dataset) + i`` means example i in that epoch.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset, Sampler

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
    """Keeps examples with equal texts apart: in-batch negatives are documents that the query's own do not equal.

    Each block of consecutive examples, the first starting at 0, holds a text at most once; a text that more examples
    have than there are blocks is spread evenly over them. An example that does not fit waits for a later block, so
    that the last blocks may have to take what is left.
    """

    def __init__(self, dataset: EpochDataset[Item], seed: int, block: int, keys: Sequence[Sequence[int]]) -> None:
        """Prepare the orders of all epochs.

        Args:
            dataset: What is given out.
            seed: Seed of the order.
            block: Examples that meet in a step: batch size per device x processes x accumulation steps.
            keys: For each example the keys of its texts.
        """
        super().__init__(dataset, seed)
        self.block, self.keys = max(1, block), keys
        blocks = max(1, -(-len(dataset) // self.block))
        times = Counter(key for own in keys for key in set(own))
        # A text of more examples than there are blocks must meet itself; all others need not.
        self._allowed = {key: -(-number // blocks) for key, number in times.items() if number > blocks}
        self._repeated = {key for key, number in times.items() if number > 1}

    def order(self, epoch: int) -> list[int]:
        """Return the numbers of the examples in the order of an epoch."""
        fresh = deque(int(number) for number in super().order(epoch))
        waiting: dict[int, deque[int]] = {}  # by the text that they have to wait for
        result: list[int] = []
        while fresh or waiting:
            result += self._next_block(fresh, waiting)
        return result

    def _next_block(self, fresh: deque[int], waiting: dict[int, deque[int]]) -> list[int]:
        """Take a block of examples, those that have waited first."""
        taken: list[int] = []
        inside: Counter[int] = Counter()
        for key in list(islice(waiting, 4 * self.block if fresh else None)):
            if len(taken) == self.block:
                break
            queue = waiting.pop(key)
            while queue and len(taken) < self.block:
                blocking = self._blocking(queue[0], inside)
                if blocking is None:
                    self._take(queue.popleft(), taken, inside)
                elif blocking == key:
                    break
                else:
                    waiting.setdefault(blocking, deque()).append(queue.popleft())
            if queue:
                waiting.setdefault(key, deque()).extendleft(reversed(queue))
        while fresh and len(taken) < self.block:
            number = fresh.popleft()
            blocking = self._blocking(number, inside)
            if blocking is None:
                self._take(number, taken, inside)
            else:
                waiting.setdefault(blocking, deque()).append(number)
        if len(taken) < self.block and waiting:
            # All that is left have texts that this block has already.
            left = [number for queue in waiting.values() for number in queue]
            waiting.clear()
            need = self.block - len(taken)
            taken += left[:need]
            for number in left[need:]:
                waiting.setdefault(self.keys[number][0], deque()).append(number)
        return taken

    def _blocking(self, number: int, inside: Counter[int]) -> int | None:
        """Return a key of an example that a block has often enough; None if it may come in."""
        for key in self.keys[number]:
            if key in inside and inside[key] >= self._allowed.get(key, 1):
                return key
        return None

    def _take(self, number: int, taken: list[int], inside: Counter[int]) -> None:
        taken.append(number)
        inside.update(key for key in set(self.keys[number]) if key in self._repeated)
