"""Batches on their way to a GPU, ahead of the step that needs them.

Whoever looks for samples, worker processes as a rule, says what they are made of: queries and words
in one block, where the mask features lie, where the true masks change. A thread of the training
process reads the mask features from the shards straight into pinned memory behind that block,
copies it to the device on a stream of its own, and paints the masks there. The batches are those of
`collate`.
"""

import math
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cache_schema.direct import Places, fill
from cache_schema.host.cores import SPARE_THREADS
from cache_schema.reader import CacheReader
from train.data.batch import Batch, Sample, head_inputs, of_each
from train.data.targets import ClipRuns, paint_all, toggles
from train.heads.base import HeadInputs
from train.masks.logits import MaskFeatures
from train.memory import torch_dtype

#: Batches that are ready or being made while training is at one.
AHEAD = 2
#: Threads that read.
READERS = max(2, SPARE_THREADS)
#: Seconds after which a thread that computes lets another one have Python: training launches many
#: short operations, and would wait for the thread that loads after each.
SWITCH = 5e-5
ALIGNED = 16  # bytes

Layout = list[tuple[torch.dtype, tuple[int, ...]]]


@dataclass
class Staged:
    """A batch as it travels between processes.

    Attributes:
        packed: the inputs of the head, where masks change, and what `Batch` has of queries and
            targets; see `pack`.
        layout: of it.
        names: of what is in it: fields of `HeadInputs` and of `Batch`, and "changes".
        places: of each sample, which of the caches and where in it the mask features lie; none
            where nobody draws masks.
        runs: of each sample; their ends are in `packed`. As `places`.
    """

    packed: Tensor
    layout: Layout
    names: list[str]
    places: list[tuple[int, Places]]
    runs: list[ClipRuns]


def stage(samples: Sequence[Sample]) -> Staged:
    """What stands for `collate` on the way to a GPU; for samples of a staged `ClipDataset`."""
    drawn = [sample for sample in samples if sample.mask_features is not None]
    named = list(head_inputs(samples).present().items())
    named.append(("changes", torch.from_numpy(toggles([sample.targets for sample in drawn]))))
    for name in ("overlaps", "ids"):
        named += [(name, tensor) for tensor in of_each(samples, name)]
    packed, layout = pack([tensor for _, tensor in named])
    # What was packed need not travel twice.
    runs = [replace(s.targets, ends=[[]] * len(s.targets.ends)) for s in drawn]
    places = [(s.cache, s.mask_features) for s in drawn]
    return Staged(packed, layout, [name for name, _ in named], places, runs)


def pack(tensors: Sequence[Tensor]) -> tuple[Tensor, Layout]:
    """Tensors on the CPU as one of bytes, so that one copy moves them, and how they lie in it."""
    layout = [(tensor.dtype, tuple(tensor.shape)) for tensor in tensors]
    packed = torch.empty(room(layout), dtype=torch.uint8)
    for own, tensor in zip(unpack(packed, layout), tensors, strict=True):
        own.copy_(tensor)
    return packed, layout


def unpack(packed: Tensor, layout: Layout) -> list[Tensor]:
    """The tensors of `pack`, without a copy."""
    tensors, start = [], 0
    for dtype, shape in layout:
        size = math.prod(shape) * dtype.itemsize
        tensors.append(packed[start : start + size].view(dtype).view(shape))
        start += room([(dtype, shape)])
    return tensors


def room(layout: Layout) -> int:
    """Bytes that tensors take side by side, each of them aligned."""
    sizes = (math.prod(shape) * dtype.itemsize for dtype, shape in layout)
    return sum(-(-size // ALIGNED) * ALIGNED for size in sizes)


class Stager:
    """Brings staged batches to a device."""

    def __init__(self, caches: Sequence[CacheReader], device: torch.device) -> None:
        self.caches, self.device = list(caches), device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def ahead(self, loader: Iterable[Staged]) -> Iterator[Batch]:
        """The batches on the device, the next ones under way while the caller is at one."""
        staged = iter(loader)  # here, since it starts processes
        interval = sys.getswitchinterval()
        with ThreadPoolExecutor(1, "stager") as thread, ThreadPoolExecutor(READERS) as pool:

            def load() -> Moved | None:
                found = next(staged, None)
                return found and self._move(found, pool)

            waiting = deque(thread.submit(load) for _ in range(AHEAD))
            sys.setswitchinterval(SWITCH)
            try:
                while (moved := waiting.popleft().result()) is not None:
                    waiting.append(thread.submit(load))
                    if moved.ready is not None:
                        current = torch.cuda.current_stream(self.device)
                        current.wait_event(moved.ready)
                        for block in moved.blocks:  # kept until the caller's work is done
                            block.record_stream(current)
                    yield moved.batch
            finally:
                sys.setswitchinterval(interval)
                thread.shutdown(cancel_futures=True)

    def _move(self, staged: Staged, pool: ThreadPoolExecutor) -> "Moved":
        with torch.cuda.stream(self._stream) if self._stream else nullcontext():
            places, start = [where for _, where in staged.places], len(staged.packed)
            layout = [(torch_dtype(e.dtype), e.shape) for p in places for e in p.extents.values()]
            host = torch.empty(
                start + room(layout), dtype=torch.uint8, pin_memory=self._stream is not None
            )
            host[:start] = staged.packed

            def stored(memory: Tensor) -> list[dict[str, Tensor]]:
                """The mask features of each sample, which lie behind what is packed."""
                arrays = iter(unpack(memory[start:], layout))
                return [dict(zip(own.extents, arrays, strict=False)) for own in places]

            def read(place: tuple[int, Places], arrays: dict[str, Tensor]) -> None:
                cache, where = place
                fill(self.caches[cache], where, {n: own.numpy() for n, own in arrays.items()})

            for _ in pool.map(read, staged.places, stored(host)):
                pass
            # Torch keeps pinned memory until it has been copied.
            block = host.to(self.device, non_blocking=True)
            named = list(zip(staged.names, unpack(block, staged.layout), strict=True))
            tensors = dict(named)
            targets, painted = paint_all(tensors["changes"], staged.runs)
            features = [
                MaskFeatures(own, self.caches[cache].codec)
                for own, (cache, _) in zip(stored(block), staged.places, strict=True)
            ]
            overlaps, ids = ([o for name, o in named if name == of] for of in ("overlaps", "ids"))
            batch = Batch(HeadInputs.of(tensors), features, targets, overlaps, ids)
            ready = self._stream.record_event() if self._stream else None
        return Moved(batch, [block, *painted], ready)


@dataclass
class Moved:
    """A batch on the device.

    Attributes:
        blocks: the memory that it lies in.
        ready: when it is there; None if it is there already.
    """

    batch: Batch
    blocks: list[Tensor]
    ready: torch.cuda.Event | None
