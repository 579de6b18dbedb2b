"""What the reader gives back is what was written, in every process, with few open files."""

import pickle
import subprocess
import sys
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache_schema import reader as reader_module
from cache_schema.copying import copy
from cache_schema.host.cli import InputError
from cache_schema.reader import CacheReader
from cache_schema.run_lengths import compress, run_ends
from tests.cache_schema.helpers import flip, in_child, payloads
from tests.cache_schema.test_names import STORABLE
from tests.synthetic import (
    FACTS,
    make_segmenter,
    make_video,
    open_writer,
    write_cache,
    write_video,
)


@pytest.mark.parametrize("codec", ["float32", "float16"])
def test_everything_comes_back(tmp_path, codec):
    videos = write_cache(tmp_path / "cache", codec=codec, num_frames=[6, 3], shard_bytes=20000)
    reader = CacheReader(tmp_path / "cache")
    dtype = np.dtype(codec)
    assert reader.video_ids == [v.id for v in videos] and len(reader) == 3
    assert (reader.dataset, reader.split, reader.codec.name) == ("synthetic", "train", codec)
    assert reader.fingerprint["segmenter"] == {"name": "synthetic", "seed": 0}
    assert len({entry.shard for entry in reader.entries.values()}) > 1
    for made in videos:
        video = reader.video(made.id)
        assert video.geometry == made.geometry
        assert video.frame_names == made.frame_names
        assert video.num_frames == len(made.frame_names)
        for read, wrote, kind in (
            (video.frame_queries(), made.frame_queries, dtype),
            (video.mask_features()["values"], made.mask_features, dtype),
            (video.video_queries(), made.video_queries, dtype),
            (video.video_logits(), made.video_logits, np.float32),
            (video.video_mask_embeds(), made.video_mask_embeds, dtype),
            (video.tracks(), made.tracks, np.float16),
        ):
            assert read.dtype == kind and np.array_equal(read, wrote.astype(kind))
        assert video.num_clips == len(made.clips)
        for k, clip in enumerate(made.clips):
            assert_same(video.clip(k), clip)
        assert video.objects() == made.objects
        assert video.expression_ids == [e.expression_id for e in made.expressions]
        for expression in made.expressions:
            assert_same(video.expression(expression.expression_id), expression)
            without = replace(expression, offsets=np.empty((0, 2), np.int32))
            assert_same(video.expression(expression.expression_id, offsets=False), without)


def assert_same(a, b):
    for name, value in vars(b).items():
        if isinstance(value, np.ndarray):
            assert getattr(a, name).dtype == value.dtype
            assert np.array_equal(getattr(a, name), value), name
        else:
            assert getattr(a, name) == value


@pytest.mark.parametrize("ram_bytes", [0, 10**6])
def test_the_runs_of_an_object_are_those_of_its_masks(tmp_path, ram_bytes):
    made = make_video(0)
    size = [made.geometry.height, made.geometry.width]
    first = next(iter(made.objects))
    made.objects[first][2] = {"size": size, "counts": compress(np.zeros(size, bool))}
    with open_writer(tmp_path / "cache") as writer:
        write_video(writer, made)
    video = CacheReader(tmp_path / "cache", ram_bytes=ram_bytes).video(made.id)
    for annotation_id, masks in made.objects.items():
        shown = [m is not None and not (annotation_id == first and t == 2)
                 for t, m in enumerate(masks)]  # fmt: skip
        for frames in ([4, 1], [1, 4, 0], range(6)):  # new, some of them known, and all
            for t, ends in zip(frames, video.ends(annotation_id, frames), strict=True):
                assert (ends is not None) == shown[t]
                if shown[t]:
                    assert np.array_equal(ends, run_ends([masks[t]["counts"]], size)[0])
        assert video.visible(annotation_id).tolist() == shown


def test_frames_by_index(tmp_path):
    made = write_cache(tmp_path, codec="float32", num_videos=1)[0]
    video = CacheReader(tmp_path).video(made.id)
    for indices in ([4, 0, 4], np.array([5]), range(2, 5), []):
        assert np.array_equal(video.frame_queries(indices), made.frame_queries[list(indices)])
        assert np.array_equal(
            video.mask_features(indices)["values"], made.mask_features[list(indices)]
        )
    for bad in ([6], [-1]):
        with pytest.raises(IndexError, match="video000"):
            video.frame_queries(bad)
    for bad in (np.arange(6) < 3, [0.0, 1.0]):  # as numbers they would be frames 0 and 1
        with pytest.raises(TypeError):
            video.frame_queries(bad)
    with pytest.raises(IndexError):
        video.clip(2)


def test_a_video_without_clips_objects_and_expressions(tmp_path):
    made = make_video(0, num_clips=0, num_expressions=0)
    made.objects = {}
    with open_writer(tmp_path) as writer:
        write_video(writer, made)
    video = CacheReader(tmp_path).video(made.id)
    assert (video.num_clips, video.objects(), video.expression_ids) == (0, {}, [])
    with pytest.raises(InputError, match="nobody"):
        video.expression("nobody")
    with pytest.raises(InputError, match="has no video 'nobody'"):
        CacheReader(tmp_path).video("nobody")


@given(st.lists(STORABLE, min_size=1, max_size=2, unique=True), STORABLE)
def test_any_id_and_text_survives(tmp_path_factory, ids, text):
    path = tmp_path_factory.mktemp("ids")
    with open_writer(path) as writer:
        for identifier in {*ids, "../../outside"}:
            made = make_video(0, C=1, num_frames=1, num_expressions=1, num_clips=0)
            made.id = identifier
            made.frame_names = [text]
            made.objects = {identifier: made.objects["0"]}
            made.expressions[0].expression_id = identifier
            made.expressions[0].text = text
            made.expressions[0].object_ids = made.expressions[0].annotation_ids = ids
            write_video(writer, made)
    reader = CacheReader(path)
    assert set(reader.video_ids) == {*ids, "../../outside"}
    for identifier in ids:
        video = reader.video(identifier)
        assert video.frame_names == [text] and list(video.objects()) == [identifier]
        assert video.expression_ids == [identifier]
        expression = video.expression(identifier)
        assert expression.text == text and expression.annotation_ids == ids
    reader.close()


def test_other_processes_open_their_own_files(tmp_path):
    made = write_cache(tmp_path, codec="float32", num_videos=1)[0]
    reader = CacheReader(tmp_path)
    parents = reader.video(made.id).frame_queries()

    def read():
        assert np.array_equal(reader.video(made.id).frame_queries(), parents)

    assert in_child(read) == 0
    copy = pickle.loads(pickle.dumps(reader))
    assert np.array_equal(copy.video(made.id).frame_queries(), parents)


def test_a_reader_sees_a_cache_that_is_still_being_written(tmp_path):
    with open_writer(tmp_path, shard_bytes=1) as writer:
        write_video(writer, make_video(0))
        writer.settle()
        assert CacheReader(tmp_path).video_ids == ["video000"]
        write_video(writer, make_video(1))
    assert len(CacheReader(tmp_path)) == 2


def test_the_lines_of_the_format_page_read_a_cache(tmp_path):
    made = write_cache(tmp_path, codec="float32", num_videos=1)[0]
    page = (Path(reader_module.__file__).parent / "README.md").read_text()
    found = {"cache": tmp_path}
    reading = page.split("\n## Reading\n")[1]
    exec(reading.split("```python\n")[1].split("```")[0], found)
    assert found["names"] == made.frame_names
    logits = np.einsum("nc,chw->nhw", made.video_mask_embeds, made.mask_features[0])
    np.testing.assert_allclose(found["logits"], logits, atol=1e-5)


ONLY_NUMPY_AND_H5PY = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        package = name.partition(".")[0]
        if package not in {*sys.stdlib_module_names, "numpy", "h5py", "cache_schema", "encodings"}:
            raise ImportError(f"{name} is not NumPy or h5py")

sys.meta_path.insert(0, Refuse())
from cache_schema import stats
from cache_schema.reader import CacheReader

reader = CacheReader(sys.argv[1], ram_bytes=1000)
print(stats.summary(stats.collect(reader))["words per expression"]["total"])
video = reader.video("video000")
print(video.mask_features([1])["values"].shape, video.objects().keys())
"""


def test_a_reader_needs_only_numpy_and_h5py(tmp_path):
    write_cache(tmp_path, num_videos=1)
    command = [sys.executable, "-c", ONLY_NUMPY_AND_H5PY, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "20" and "(1, 16, 8, 12)" in done.stdout


@pytest.mark.parametrize("codec", ["float16", "lowrank-int8", "none"])
def test_every_flipped_byte_is_found_by_whoever_reads_it(tmp_path, codec):
    full = "float16" if codec == "none" else codec
    write_cache(tmp_path / "full", num_videos=1, num_frames=2, codec=full, C=8, h=2, w=3)
    copy(tmp_path / "full", tmp_path / "copy", light=codec == "none")
    tmp_path = tmp_path / "copy"
    shard = tmp_path / "shard-00000.h5"
    sound = shard.read_bytes()
    for name, start, length in payloads(shard):
        flip(shard, start + length // 2)
        with pytest.raises(
            InputError, match="video000.* is damaged .*verify|do not match its type"
        ):
            read_all(CacheReader(tmp_path))
        if name.startswith("videos/"):
            read_all(CacheReader(tmp_path, check=False), strict=False)
        if "mask_features" in name:
            video = CacheReader(tmp_path).video("video000")
            with pytest.raises(InputError, match="'video000' .* is damaged .mask_features/"):
                video.mask_features([0, 1, 0])
        shard.write_bytes(sound)
    read_all(CacheReader(tmp_path))


def read_all(reader, *, strict=True):
    """Everything of the first video; what a flipped byte makes unreadable may be left out."""
    video = reader.video("video000")
    with nullcontext() if strict else suppress(InputError):
        video.frame_queries()
        if not reader.light:
            video.mask_features()
        video.video_queries(), video.video_logits(), video.video_mask_embeds(), video.tracks()
        video.frame_times(), video.overlaps(), video.segmenter_masks(), video.objects()
        for k in range(video.num_clips):
            video.clip(k)
        for expression_id in video.expression_ids:
            video.expression(expression_id)


def test_what_a_process_has_found_sound_it_does_not_check_again(tmp_path, monkeypatch):
    write_cache(tmp_path, num_videos=1)
    reader = CacheReader(tmp_path)
    read_all(reader)
    monkeypatch.setattr("cache_schema.reader.zlib", None)
    read_all(reader)
    with pytest.raises(AttributeError):
        read_all(CacheReader(tmp_path))


def test_what_version_3_added_comes_back(tmp_path):
    made = make_video(0, num_frames=3)
    made.objects = dict(zip(["b", "a", "a b"], made.objects.values(), strict=True))
    for expression in made.expressions:
        expression.annotation_ids = []
    made.frame_times = np.array([4, 5, 9], np.int32)
    made.video_mask_embeds = np.stack([made.video_mask_embeds * t for t in range(3)])
    made.clips = [
        replace(clip, mask_embeds=np.stack([clip.mask_embeds] * len(clip.frame_indices)))
        for clip in made.clips
    ]
    with open_writer(tmp_path) as writer:
        write_video(writer, made)
    reader = CacheReader(tmp_path)
    video = reader.video(made.id)
    assert (reader.facts, reader.light, reader.version) == (FACTS, False, 3)
    head = make_segmenter().mask_head
    for layer, expected in zip(reader.segmenter.mask_head, head, strict=True):
        assert all(map(np.array_equal, layer, expected))
    assert video.frame_times().tolist() == [4, 5, 9]
    assert np.array_equal(video.video_mask_embeds(), made.video_mask_embeds.astype(np.float16))
    order = [list(made.objects).index(name) for name in video.annotation_ids]
    assert sorted(video.annotation_ids) == ["a", "a b", "b"] and order != [0, 1, 2]
    assert np.array_equal(video.overlaps(), made.overlaps[:, order])
    assert video.segmenter_masks() == made.segmenter_masks
    for k, clip in enumerate(made.clips):
        assert np.array_equal(video.clip(k).mask_embeds, clip.mask_embeds)
        assert np.array_equal(video.clip(k).overlaps, clip.overlaps[:, order])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"frame_times": np.array([0, 2, 2])}, "not ascending"),
        ({"frame_times": np.array([-1, 2, 3])}, "not ascending"),
        ({"frame_times": np.array([0, 2])}, "frame_times has the shape"),
        ({"segmenter_masks": {9: [None] * 3}}, "masks of the queries"),
        ({"video_mask_embeds": np.zeros((2, 4, 16))}, "video_mask_embeds has the shape"),
    ],
)
def test_what_does_not_fit_is_not_written(tmp_path, change, message):
    made = replace(make_video(0, num_frames=3), **change)
    with open_writer(tmp_path) as writer, pytest.raises(ValueError, match=message):
        write_video(writer, made)
