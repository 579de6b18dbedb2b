"""Batches on their way to a GPU, ahead of the step that needs them.

Whoever looks for samples, worker processes as a rule, says what they are made of: queries and words
in one block, where the mask features lie, where the true masks change. A thread of the training
process reads the mask features from the shards straight into pinned memory, copies everything to
the device on a stream of its own, and paints the masks there. The batches are those of `collate`.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

from cache_schema.cores import SPARE_THREADS
from cache_schema.places import Places, fill
from cache_schema.reader import CacheReader
from train.data.batch import Batch, Sample, distance, head_inputs
from train.data.buffers import torch_dtype
from train.data.targets import ClipRuns, paint_all, toggles
from train.mask_logits import MaskFeatures
from train.models import HeadInputs

#: Batches that are ready or being made while training is at one.
AHEAD = 2
ALIGNED = 16  # bytes

Layout = list[tuple[torch.dtype, tuple[int, ...]]]


@dataclass
class Staged:
    """A batch as it travels between processes.

    Attributes:
        packed: the inputs of the head, where masks change, and the distances of `Batch`; see
            `pack`.
        layout: of it.
        places: of each sample, which of the caches and where in it the mask features lie.
        runs: of each sample; their ends are in `packed`.
    """

    packed: Tensor
    layout: Layout
    places: list[tuple[int, Places]]
    runs: list[ClipRuns]


def stage(samples: Sequence[Sample]) -> Staged:
    """What stands for `collate` on the way to a GPU; for samples of a staged `ClipDataset`."""
    inputs = head_inputs(samples)
    changes = torch.from_numpy(toggles([sample.targets for sample in samples]))
    tensors = [getattr(inputs, field.name) for field in fields(HeadInputs)]
    packed, layout = pack([*tensors, changes, *map(distance, samples)])
    # What was packed need not travel twice.
    runs = [replace(s.targets, ends=[[]] * len(s.targets.ends)) for s in samples]
    return Staged(packed, layout, [(s.cache, s.mask_features) for s in samples], runs)


def pack(tensors: Sequence[Tensor]) -> tuple[Tensor, Layout]:
    """Tensors on the CPU as one of bytes, so that one copy moves them, and how they lie in it."""
    starts = np.cumsum([0, *(-(-tensor.nbytes // ALIGNED) * ALIGNED for tensor in tensors)])
    packed = torch.empty(int(starts[-1]), dtype=torch.uint8)
    for tensor, start in zip(tensors, starts[:-1], strict=True):
        packed[start : start + tensor.nbytes] = tensor.contiguous().flatten().view(torch.uint8)
    return packed, [(tensor.dtype, tuple(tensor.shape)) for tensor in tensors]


def unpack(packed: Tensor, layout: Layout) -> list[Tensor]:
    """The tensors of `pack`, without a copy."""
    tensors, start = [], 0
    for dtype, shape in layout:
        size = int(np.prod(shape)) * dtype.itemsize
        tensors.append(packed[start : start + size].view(dtype).view(shape))
        start += -(-size // ALIGNED) * ALIGNED
    return tensors


class Stager:
    """Brings staged batches to a device.

    Args:
        caches: that the samples are from.
        device: where they go.
    """

    def __init__(self, caches: Sequence[CacheReader], device: torch.device) -> None:
        self.caches, self.device = list(caches), device
        self._cuda = device.type == "cuda"
        self._stream = torch.cuda.Stream(device) if self._cuda else None
        self._blocks: list[Tensor] = []  # that the batch at hand lies in

    def ahead(self, loader: Iterable[Staged]) -> Iterator[Batch]:
        """The batches on the device, the next ones under way while the caller is at one."""
        staged = iter(loader)  # here, since it starts processes
        with ThreadPoolExecutor(1, "stager") as thread, ThreadPoolExecutor(SPARE_THREADS) as pool:

            def load() -> tuple[Batch, list[Tensor], torch.cuda.Event | None] | None:
                found = next(staged, None)
                return found and self._move(found, pool)

            waiting = deque(thread.submit(load) for _ in range(AHEAD))
            try:
                while (loaded := waiting.popleft().result()) is not None:
                    waiting.append(thread.submit(load))
                    batch, blocks, event = loaded
                    if event is not None:
                        current = torch.cuda.current_stream(self.device)
                        current.wait_event(event)
                        for block in blocks:  # not given away before the caller's work is done
                            block.record_stream(current)
                    yield batch
            finally:
                thread.shutdown(cancel_futures=True)

    def _move(
        self, staged: Staged, pool: ThreadPoolExecutor
    ) -> tuple[Batch, list[Tensor], torch.cuda.Event | None]:
        with torch.cuda.stream(self._stream) if self._stream else nullcontext():
            self._blocks = []
            packed = self._send(self._host(staged.packed.shape, torch.uint8).copy_(staged.packed))
            names = [field.name for field in fields(HeadInputs)]
            tensors = unpack(packed, staged.layout)
            inputs = HeadInputs(**dict(zip(names, tensors, strict=False)))
            changes, *distances = tensors[len(names) :]
            targets = paint_all(changes, staged.runs)
            self._blocks += [part for own in targets for part in (own.masks, own.labels)]
            batch = Batch(inputs, self._features(staged.places, pool), targets, distances)
            event = self._stream.record_event() if self._stream else None
        return batch, self._blocks, event

    def _features(
        self, places: Sequence[tuple[int, Places]], pool: ThreadPoolExecutor
    ) -> list[MaskFeatures]:
        """Read the mask features of each sample, and send them."""

        def read(place: tuple[int, Places]) -> dict[str, Tensor]:
            cache, where = place
            out = {
                name: self._host(extent.shape, torch_dtype(extent.dtype))
                for name, extent in where.extents.items()
            }
            fill(self.caches[cache], where, {name: own.numpy() for name, own in out.items()})
            return out

        return [
            MaskFeatures({n: self._send(own) for n, own in stored.items()}, self.caches[k].codec)
            for (k, _), stored in zip(places, pool.map(read, places), strict=True)
        ]

    def _host(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Memory that the device copies from."""
        return torch.empty(tuple(shape), dtype=dtype, pin_memory=self._cuda)

    def _send(self, tensor: Tensor) -> Tensor:
        """On the device; torch keeps pinned memory until it has been copied."""
        sent = tensor.to(self.device, non_blocking=True)
        self._blocks.append(sent)
        return sent
