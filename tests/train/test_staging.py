"""Batches on their way to a GPU: the same as those that are made at once."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from cache_schema.host.cli import InputError
from cache_schema.reader import CacheReader
from tests.synthetic import write_cache
from tests.train.test_data import assert_equal
from train.data import ClipDataset, CounterBatches, Stager, collate, stage
from train.data.staging import pack, unpack
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
    return DataLoader(
        ClipDataset(caches, seed=0, mixed_codecs=True, staged=staged),
        batch_sampler=CounterBatches(3, batches),
        collate_fn=stage if staged else collate,
        num_workers=workers,
    )


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("workers", [0, 2])
def test_staged_batches_are_those_of_collate(
    caches: list[CacheReader], device: str, workers: int
) -> None:
    plain = list(loader(caches, staged=False, workers=0, batches=6))
    staged = Stager(caches, torch.device(device)).ahead(
        loader(caches, staged=True, workers=workers, batches=6)
    )
    count = 0
    for batch, expected in zip(staged, plain, strict=True):
        assert_equal(batch.to("cpu"), expected)
        # One codec for all samples of a cache, so that they go through the loss together.
        assert {id(f.codec) for f in batch.mask_features} <= {id(c.codec) for c in caches}
        count += 1
    assert count == 6


def test_what_stops_a_worker_stops_training(caches: list[CacheReader], tmp_path: Path) -> None:
    write_cache(tmp_path / "gone", num_frames=[6], codec="float16")
    reader = CacheReader(tmp_path / "gone")
    batches = loader([reader], staged=True, workers=0, batches=6)
    for shard in (tmp_path / "gone").glob("shard-*"):
        shard.write_bytes(b"")
    reader.close()
    with pytest.raises(InputError, match="shard"):
        next(Stager([reader], torch.device("cpu")).ahead(batches))


def test_places_of_another_file_are_refused(caches: list[CacheReader]) -> None:
    from cache_schema.direct import fill, find

    video = caches[0].video(caches[0].video_ids[0])
    places = find(video, [0, 2])
    out = {n: np.empty(e.shape, e.dtype) for n, e in places.extents.items()}
    fill(caches[0], places, out)
    assert np.array_equal(out["values"], video.mask_features([0, 2])["values"])
    other = replace(places, identity=(0, 0, 0, 0))
    with pytest.raises(InputError, match="has changed while it was in use"):
        fill(caches[0], other, out)
    with pytest.raises(IndexError):
        find(video, [video.num_frames])


@given(st.lists(st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 4), max_size=3))))
def test_packed_tensors_come_out_as_they_went_in(kinds: list) -> None:
    tensors = [(9 * torch.rand(shape)).to(dtype) for dtype, shape in kinds]
    packed, layout = pack(tensors)
    for tensor, out in zip(tensors, unpack(packed, layout), strict=True):
        assert out.dtype == tensor.dtype and torch.equal(out, tensor)


masks = st.lists(st.integers(0, 1), min_size=12, max_size=12)


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
