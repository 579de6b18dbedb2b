"""The order of training: batches of sample counters, from any iteration on."""

from collections.abc import Iterator

from torch.utils.data import Sampler


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
