"""What is kept in memory is what is on the disk, in no more bytes than were given."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache_schema.host.cli import InputError
from cache_schema.ram import ENTRY, RamTier
from cache_schema.reader import CacheReader
from tests.cache_schema.test_reader import assert_same
from tests.synthetic import write_cache


@given(st.integers(0, 3000), st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=40))
def test_the_limit_holds_and_the_least_used_goes_first(limit, uses):
    tier = RamTier(limit)
    model: list[int] = []  # keys, the least used first

    def size(key):
        return 40 * key + ENTRY

    for key, look in uses:
        found = tier.get(key)
        assert (found is not None) == (key in model)
        if found is not None:
            assert np.array_equal(found, np.full(40 * key, key, np.uint8))
            model.append(model.pop(model.index(key)))
        elif not look and size(key) <= limit:
            while sum(map(size, model)) + size(key) > limit:
                model.pop(0)
            model.append(key)
        if not look:
            tier.put(key, np.full(40 * key, key, np.uint8))
        assert tier.bytes == sum(map(size, model)) <= max(limit, 0)


def everything(reader):
    for video_id in reader.video_ids:
        video = reader.video(video_id)
        yield video.frame_queries(range(video.num_frames - 1, -1, -2))
        yield video.frame_queries()
        yield video.mask_features([0])["values"]
        yield video.video_queries()
        yield video.video_logits()
        yield video.video_mask_embeds()
        yield video.tracks()
        yield from (video.clip(k) for k in range(video.num_clips))
        yield video.objects()
        yield from map(video.expression, video.expression_ids)


def assert_all_same(reader, other):
    for a, b in zip(everything(reader), everything(other), strict=True):
        if isinstance(a, np.ndarray):
            assert a.dtype == b.dtype and np.array_equal(a, b)
        elif isinstance(a, dict):
            assert a == b
        else:
            assert_same(a, b)


@pytest.mark.parametrize("ram_bytes", [1, 5000, 1 << 20])
@pytest.mark.parametrize("codec", ["float32", "lowrank-int8"])
def test_results_are_the_same_with_any_memory(tmp_path, ram_bytes, codec):
    write_cache(tmp_path, num_frames=[5, 3], codec=codec, shard_bytes=1)
    plain, kept = CacheReader(tmp_path), CacheReader(tmp_path, ram_bytes=ram_bytes)
    for _ in range(2):
        assert_all_same(plain, kept)
    assert plain.ram.bytes == 0 and kept.ram.bytes <= ram_bytes


def test_all_but_mask_features_is_read_once(tmp_path):
    made = write_cache(tmp_path, num_videos=1)[0]
    reader = CacheReader(tmp_path, ram_bytes=1 << 20)
    video = reader.video(made.id)
    before = list(everything(reader))
    reader.close()
    (tmp_path / "shard-00000.h5").unlink()
    assert np.array_equal(video.frame_queries(), before[1])
    assert video.objects() == made.objects
    assert_same(video.expression("2"), made.expressions[2])
    assert_same(video.clip(1), made.clips[1])
    with pytest.raises(InputError, match="it is missing"):
        video.mask_features([0])


def test_what_is_given_out_may_be_written_to(tmp_path):
    made = write_cache(tmp_path, num_videos=1, codec="float32")[0]
    reader = CacheReader(tmp_path, ram_bytes=1 << 20)
    for _ in range(3):
        video = reader.video(made.id)
        queries, clip, expression = video.frame_queries([1]), video.clip(0), video.expression("0")
        assert np.array_equal(queries[0], made.frame_queries[1])
        assert_same(clip, made.clips[0])
        assert_same(expression, made.expressions[0])
        assert video.frame_names == made.frame_names and video.objects() == made.objects
        queries[:] = clip.video_queries[:] = expression.words[:] = 7
        expression.annotation_ids.append("x")
        video.frame_names.append("x")
        video.expression_ids.append("x")
        video.objects().clear()
