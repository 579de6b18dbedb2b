"""Batches on their way to a GPU, ahead of the step that needs them.

Whoever looks for samples, worker processes as a rule, puts all that a batch is made of into memory
that is shared with the training process: queries and words, where the true masks change, and the
mask features, read there straight from the shards. A GPU takes the batch from there in one copy on
a stream of its own, and masks are painted on it. All that is left to the training process is a
short message a batch. The batches are those of `collate`.
"""

import math
import mmap
import os
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from train.data.batch import Batch, Sample, head_inputs, of_each
from train.data.dataset import ClipDataset
from train.data.mixture import CounterBatches
from train.data.targets import ClipRuns, paint_all, toggles
from train.heads.base import HeadInputs
from train.masks.logits import MaskFeatures
from train.memory import torch_dtype

#: Batches on the device or on their way there, with the one that training is at.
AHEAD = 2
#: Batches that each worker process is asked for, beyond those that the training process has taken.
PREFETCH = 2
ALIGNED = 16  # bytes
#: For words and for where masks change, a sample.
SPARE = 1 << 20  # bytes
#: Of the machine's memory, the part that slots may take.
SHARE = 4

Layout = list[tuple[torch.dtype, tuple[int, ...]]]


@dataclass
class Staged:
    """A batch as it travels between processes.

    Attributes:
        block: the slot that it lies in; or the bytes, where they were too many for one.
        layout: of it.
        names: of what is in it first: fields of `HeadInputs` and of `Batch`, and "changes".
        features: of each sample that follows, its cache and the names of its mask features' arrays;
            none where nobody draws masks.
        runs: of each of these samples; their ends are in the block, as "changes".
    """

    block: int | np.ndarray
    layout: Layout
    names: list[str]
    features: list[tuple[int, list[str]]]
    runs: list[ClipRuns]


class Staging:
    """What stands for `collate` on the way to a GPU; for samples of a staged `ClipDataset`.

    Batch i lies in slot i % count of memory that the processes share which are forked from this
    one. When the training process takes message j from the loader, all batches up to
    j + workers * PREFETCH may be written from then on. The last of them has the slot of batch
    j - AHEAD, which has to have been copied by then; `Stager` waits for that.

    Args:
        batches: that the loader is asked for.
        workers: processes of the loader.
    """

    def __init__(self, dataset: ClipDataset, batches: CounterBatches, workers: int) -> None:
        self._batch_size = batches.batch_size
        ranks, count = batches.world_size, workers * PREFETCH + AHEAD
        own = batches.batch_size // ranks * most_bytes(dataset)
        most = os.sysconf("SC_PHYS_PAGES") // (SHARE * ranks * count)
        size = min(own // mmap.PAGESIZE + 1, most) * mmap.PAGESIZE
        # Of no file: /dev/shm is small in containers.
        memory = mmap.mmap(-1, count * size)
        self.slots = torch.frombuffer(memory, dtype=torch.uint8).view(count, size)

    def __call__(self, samples: Sequence[Sample]) -> Staged:
        drawn = [sample for sample in samples if sample.mask_features is not None]
        named = list(head_inputs(samples).present().items())
        named.append(("changes", torch.from_numpy(toggles([s.targets for s in drawn]))))
        for name in ("overlaps", "ids"):
            named += [(name, tensor) for tensor in of_each(samples, name)]
        layout, features = [(tensor.dtype, tuple(tensor.shape)) for _, tensor in named], []
        for sample in drawn:
            video, frames = sample.mask_features
            extents = video.mask_extents()
            layout += [
                (torch_dtype(e.dtype), (len(frames), *e.row_shape)) for e in extents.values()
            ]
            features.append((sample.cache, list(extents)))
        size, slot = room(layout), samples[0].number // self._batch_size % len(self.slots)
        block = slot if size <= self.slots.shape[1] else np.empty(size, np.uint8)
        # What was put there need not travel twice.
        runs = [replace(s.targets, ends=[[]] * len(s.targets.ends)) for s in drawn]
        staged = Staged(block, layout, [name for name, _ in named], features, runs)
        arrays = iter(unpack(self.bytes_of(staged), layout))
        for _, tensor in named:
            next(arrays).copy_(tensor)
        for sample, (_, names) in zip(drawn, features, strict=True):
            video, frames = sample.mask_features
            video.mask_features(frames, {name: next(arrays).numpy() for name in names})
        return staged

    def bytes_of(self, staged: Staged) -> Tensor:
        """The memory that a batch lies in, (bytes,) uint8."""
        if isinstance(staged.block, np.ndarray):
            return torch.from_numpy(staged.block)
        return self.slots[staged.block, : room(staged.layout)]

    @contextmanager
    def pinned(self, device: torch.device) -> Iterator[None]:
        """Keep the slots where they are meanwhile, so that a GPU copies while all else goes on."""
        if device.type != "cuda":
            yield
            return
        cuda = torch.cuda.cudart()
        failed = int(cuda.cudaHostRegister(self.slots.data_ptr(), self.slots.numel(), 0))
        if failed:
            warnings.warn(
                f"{self.slots.numel()} bytes of memory cannot be pinned (CUDA error {failed}), so "
                "batches reach the GPU more slowly",
                stacklevel=2,
            )
            with suppress(RuntimeError):
                torch.ones(1, device=device)  # which meets the error that CUDA remembers
        try:
            yield
        finally:
            if not failed:
                torch.cuda.synchronize(device)
                cuda.cudaHostUnregister(self.slots.data_ptr())


def most_bytes(dataset: ClipDataset) -> int:
    """What a sample takes at most, if the longest video of each cache has the longest clips."""
    sizes, most = dataset.sizes, 0
    of_frame = {
        "frame_queries": sizes.num_frame_queries * sizes.query_dim,
        "tracks": sizes.num_video_queries * 6,
        "mask_embeds": sizes.num_video_queries * sizes.mask_dim,
    }
    queries = sum(4 * numbers for name, numbers in of_frame.items() if dataset.wants(name))
    for reader in dataset.caches:
        videos = [reader.video(video_id) for video_id in reader.video_ids]
        longest = max(videos, key=lambda video: video.num_frames)
        frames = min(longest.num_frames, dataset.num_frames or longest.num_frames)
        if dataset.clip_source == "bank":  # one that is empty is refused later
            frames = len(longest.clip(0).frame_indices) if longest.num_clips else 0
        shapes = [video.geometry for video in videos]
        area = max(g.padded_height // g.stride * (g.padded_width // g.stride) for g in shapes)
        stored = (
            reader.codec.layout(sizes.mask_dim, 1, area) if dataset.wants("mask_features") else {}
        )
        features = sum(math.prod(shape) * dtype.itemsize for shape, dtype in stored.values())
        most = max(most, frames * (features + queries))
    return most + 4 * sizes.num_video_queries * (sizes.query_dim + sizes.num_classes + 1) + SPARE


def unpack(packed: Tensor, layout: Layout) -> list[Tensor]:
    """The tensors that lie side by side in (bytes,) uint8, without a copy."""
    typed = {dtype: packed.view(dtype) for dtype, _ in layout}
    tensors, start = [], 0
    for dtype, shape in layout:
        first, count = start // dtype.itemsize, math.prod(shape)
        tensors.append(typed[dtype][first : first + count].view(shape))
        start += _aligned(count * dtype.itemsize)
    return tensors


def room(layout: Layout) -> int:
    """Bytes that tensors take side by side, each of them aligned."""
    return sum(_aligned(math.prod(shape) * dtype.itemsize) for dtype, shape in layout)


def _aligned(size: int) -> int:
    return -(-size // ALIGNED) * ALIGNED


class Stager:
    """The batches of a loader on a device, the next one under way while the caller is at one.

    There is no thread: it would take turns with the many short operations of a step.

    Args:
        loader: of a staged `ClipDataset`, with `Staging`.
    """

    def __init__(self, loader: DataLoader, device: torch.device) -> None:
        self.loader, self.device = loader, device
        self._codecs = [cache.codec for cache in loader.dataset.caches]
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def __iter__(self) -> Iterator[Batch]:
        messages = iter(self.loader)  # forks, before CUDA keeps what it pins from children
        with self.loader.collate_fn.pinned(self.device):
            waiting: deque[Moved] = deque()
            for staged in messages:
                waiting.append(self.move(staged))
                if len(waiting) == AHEAD:
                    moved = waiting.popleft()
                    yield self._arrived(moved)
                    if moved.ready is not None:  # see `Staging`; as a rule it is long over
                        moved.ready.synchronize()
            yield from map(self._arrived, waiting)

    def _arrived(self, moved: "Moved") -> Batch:
        if self._stream is not None:
            current = torch.cuda.current_stream(self.device)
            current.wait_event(moved.ready)
            for block in moved.blocks:  # kept until the caller's work is done
                block.record_stream(current)
        return moved.batch

    def move(self, staged: Staged) -> "Moved":
        """Start to bring a batch to the device."""
        host = self.loader.collate_fn.bytes_of(staged)
        with torch.cuda.stream(self._stream) if self._stream else nullcontext():
            block = host.to(self.device, non_blocking=True, copy=True)
            arrays = unpack(block, staged.layout)
            named = list(zip(staged.names, arrays, strict=False))
            tensors, stored = dict(named), iter(arrays[len(named) :])
            targets, painted = paint_all(tensors["changes"], staged.runs)
            features = [
                MaskFeatures({name: next(stored) for name in names}, self._codecs[cache])
                for cache, names in staged.features
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
