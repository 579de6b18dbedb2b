"""Batches on their way to a GPU: the same as those that are made at once."""

import mmap
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from cache_schema.host.cli import InputError
from cache_schema.reader import CacheReader
from tests.synthetic import write_cache
from tests.test_children import until
from tests.train.test_data import assert_equal
from train.data import (
    ClipDataset,
    CounterBatches,
    Stager,
    Staging,
    collate,
    staging,
    workers,
)
from train.data.staging import PREFETCH, Moved, Staged, room, unpack
from train.data.targets import ClipRuns, paint_all, toggles

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
DTYPES = [torch.bool, torch.uint8, torch.float16, torch.float32, torch.int64]


@pytest.fixture(scope="module")
def caches(tmp_path_factory: pytest.TempPathFactory) -> list[CacheReader]:
    folder = tmp_path_factory.mktemp("caches")
    for name, codec in (("a", "float16"), ("b", "lowrank-int8")):
        write_cache(folder / name, num_frames=[6, 9], codec=codec, seed=len(name))
    return [CacheReader(folder / name) for name in ("a", "b")]


def loader(caches: list[CacheReader], *, staged: bool, workers: int, batches: int) -> DataLoader:
    dataset = ClipDataset(caches, seed=0, mixed_codecs=True, staged=staged)
    order = CounterBatches(6, batches, rank=1, world_size=2)
    order.start = 3  # as resumed
    return DataLoader(
        dataset,
        batch_sampler=order,
        collate_fn=Staging(dataset, order, workers) if staged else collate,
        num_workers=workers,
        prefetch_factor=PREFETCH if workers else None,
        multiprocessing_context="fork" if workers else None,
    )


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("fits", [True, False])
def test_staged_batches_are_those_of_collate(
    caches: list[CacheReader],
    device: str,
    workers: int,
    fits: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain = list(loader(caches, staged=False, workers=0, batches=20))
    if not fits:
        monkeypatch.setattr(staging, "most_bytes", lambda dataset: 1)
    batches = loader(caches, staged=True, workers=workers, batches=20)
    assert isinstance(batches.collate_fn([batches.dataset[0]]).block, int) == fits
    count = 0
    for batch, expected in zip(Stager(batches, torch.device(device)), plain, strict=True):
        assert_equal(batch.to("cpu"), expected)
        # One codec for all samples of a cache, so that they go through the loss together.
        assert {id(f.codec) for f in batch.mask_features} <= {id(c.codec) for c in caches}
        count += 1
    assert count == 17


class Late(Stager):
    """A device whose copies are over at the last moment, when workers have run as far as they can.

    Attributes:
        written: whether each batch is, as the workers tell.
        batches: those that were copied.
    """

    def __init__(self, batches: DataLoader, written: mmap.mmap) -> None:
        super().__init__(batches, torch.device("cpu"))
        self.written, self.batches, self.begun, self.waiting = written, [], 0, []

    def move(self, staged: Staged) -> Moved:
        def copy() -> None:
            asked = min(self.begun + PREFETCH * self.loader.num_workers, len(self.written))
            until(lambda: all(self.written[:asked]))
            self.batches.append(super(Late, self).move(staged).batch)
            self.waiting.remove(copy)

        self.begun += 1
        self.waiting.append(copy)
        return Moved(None, [], SimpleNamespace(synchronize=copy))


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_no_slot_is_written_before_it_was_copied(caches: list[CacheReader], workers: int) -> None:
    written = mmap.mmap(-1, 17)
    batches = loader(caches, staged=True, workers=workers, batches=20)

    class Telling(Staging):
        def __call__(self, samples: list) -> Staged:
            staged = super().__call__(samples)
            written[samples[0].number // 6 - 3] = 1
            return staged

    batches.collate_fn.__class__ = Telling
    late = Late(batches, written)
    for _ in late:
        pass
    for copy in list(late.waiting):  # nothing was asked for after these
        copy()
    plain = loader(caches, staged=False, workers=0, batches=20)
    for batch, expected in zip(late.batches, plain, strict=True):
        assert_equal(batch, expected)


@pytest.mark.parametrize("count", [0, 1])
def test_what_stops_a_worker_stops_training(tmp_path: Path, count: int) -> None:
    write_cache(tmp_path / "gone", num_frames=[6], codec="float16")
    reader = CacheReader(tmp_path / "gone")
    batches = loader([reader], staged=True, workers=count, batches=6)
    for shard in (tmp_path / "gone").glob("shard-*"):
        shard.write_bytes(b"")
    reader.close()
    with pytest.raises(InputError, match="^[^\\n]*shard[^\\n]*$"), workers.one_sentence():
        next(iter(Stager(batches, torch.device("cpu"))))


def test_a_shard_that_was_replaced_is_refused(tmp_path: Path) -> None:
    write_cache(tmp_path / "cache", num_videos=1)
    reader = CacheReader(tmp_path / "cache")
    video = reader.video(reader.video_ids[0])
    (shard,) = (tmp_path / "cache").glob("shard-*")
    copied = shutil.copy(shard, tmp_path)
    os.replace(copied, shard)
    reader.close()
    with pytest.raises(InputError, match="has changed while it was in use"):
        video.mask_features([0, 2])


@settings(max_examples=100)
@given(st.lists(st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 4), max_size=3))))
def test_tensors_lie_side_by_side(kinds: list) -> None:
    layout = [(dtype, tuple(shape)) for dtype, shape in kinds]
    packed = torch.zeros(room(layout), dtype=torch.uint8)
    tensors = [(9 * torch.rand(shape)).to(dtype) for dtype, shape in layout]
    for tensor, own in zip(tensors, unpack(packed, layout), strict=True):
        own.copy_(tensor)
    for tensor, out in zip(tensors, unpack(packed, layout), strict=True):
        assert out.dtype == tensor.dtype and torch.equal(out, tensor)


masks = st.lists(st.integers(0, 1), min_size=12, max_size=12)


@settings(max_examples=100)
@given(st.lists(st.lists(st.tuples(masks, masks), max_size=3), max_size=4))
def test_masks_are_painted_as_their_runs_say(clips: list) -> None:
    """Clips of some targets in two frames of 3 x 4 pixels."""
    runs = [
        ClipRuns(
            [str(m) for m in range(len(c))],
            [[_ends(m) for m in frames] for frames in c],
            2,
            (3, 4),
            (1, 1),
        )
        for c in clips
    ]
    painted, _ = paint_all(torch.from_numpy(toggles(runs)), runs)
    for own, clip in zip(painted, clips, strict=True):
        expected = torch.tensor(clip, dtype=torch.uint8).reshape(len(clip), 2, 4, 3)
        assert torch.equal(own.masks, expected.transpose(2, 3))


def _ends(mask: list[int]) -> np.ndarray | None:
    if not any(mask):
        return None
    changes = np.flatnonzero(np.diff([0, *mask]))
    return np.array([*changes, len(mask)])
