"""The order of training: which samples a batch has, and which pair of the caches a sample is."""

from collections.abc import Iterator, Sequence
from fractions import Fraction

import numpy as np
from torch.utils.data import Sampler


class Mixture:
    """Turns sample numbers into pairs of one or more caches, without end.

    Without weights all pairs are one heap that is gone through once an epoch, in a new order each
    time. With weights every cache is a heap of its own with its own epochs, and the samples are
    dealt out to the heaps evenly: after n samples each heap has had its share of n, give or take
    less than the number of heaps.

    Args:
        sizes: pairs of each cache.
        weights: of each cache, whole numbers of at least 1; empty for none.
        seed: of the orders.
    """

    def __init__(self, sizes: Sequence[int], weights: Sequence[int], *, seed: int) -> None:
        self.seed = seed
        heaps = list(sizes) if weights else [sum(sizes)]
        self._sizes = heaps
        self._starts = np.concatenate([[0], np.cumsum(heaps)[:-1]])
        # Of what heaps i, i + 1, ... get, the part that is heap i's.
        left = [sum(weights[i:]) for i in range(len(weights))]
        self._shares = [Fraction(w, rest) for w, rest in zip(weights, left, strict=True)] or [
            Fraction(1)
        ]
        self._orders: dict[int, tuple[int, np.ndarray]] = {}

    def pair(self, number: int) -> int:
        """Index of sample ``number`` among the pairs of all caches, one cache after the other."""
        heap, number = self._deal(number)
        epoch, position = divmod(number, self._sizes[heap])
        if self._orders.get(heap, (-1,))[0] != epoch:
            key = [self.seed, 0, epoch, heap] if heap else [self.seed, 0, epoch]
            order = np.random.default_rng(key).permutation(self._sizes[heap])
            self._orders[heap] = (epoch, order)
        return int(self._starts[heap] + self._orders[heap][1][position])

    def _deal(self, number: int) -> tuple[int, int]:
        """The heap of a sample, and how many samples that heap had before."""
        for heap, share in enumerate(self._shares):
            before = number * share.numerator // share.denominator
            if (number + 1) * share.numerator // share.denominator > before:
                return heap, before
            number -= before
        raise AssertionError("the last share is 1")


class CounterBatches(Sampler[list[int]]):
    """Iteration i gets the samples i * batch_size and following.

    The dataset turns a counter into a sample as a pure function, so resuming is starting at
    another number: nothing is read to skip forward.

    Args:
        batch_size: samples a batch, over all ranks.
        max_iters: batches in all.
        rank, world_size: which even part of each batch is given out.

    Attributes:
        start: the first iteration to give out; set before iterating.
    """

    def __init__(
        self, batch_size: int, max_iters: int, *, rank: int = 0, world_size: int = 1
    ) -> None:
        self.batch_size = batch_size
        self.max_iters = max_iters
        self.rank, self.world_size = rank, world_size
        self.start = 0

    def __iter__(self) -> Iterator[list[int]]:
        own = self.batch_size // self.world_size
        for iteration in range(self.start, self.max_iters):
            first = iteration * self.batch_size + self.rank * own
            yield list(range(first, first + own))

    def __len__(self) -> int:
        return self.max_iters
