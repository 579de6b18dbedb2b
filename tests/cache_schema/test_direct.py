"""Reading past HDF5 gives what HDF5 gives, and refuses what does not lie in the file."""

import gc
import multiprocessing
import os
import threading
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache_schema import open_shard as open_shard_module
from cache_schema import reader as reader_module
from cache_schema.direct import RandomAccessFile, locate
from cache_schema.host.cli import InputError
from cache_schema.host.system import SystemTrouble
from cache_schema.reader import CacheReader
from tests.cache_schema.helpers import in_child
from tests.synthetic import write_cache

SHARD = "shard-00000.h5"
CODECS = ("float32", "float16", "int8", "lowrank-int8")


@pytest.fixture(scope="module")
def caches(tmp_path_factory):
    paths = {codec: tmp_path_factory.mktemp("direct") / codec for codec in CODECS}
    for codec, path in paths.items():
        write_cache(path, num_videos=2, num_frames=[7, 4], codec=codec)
    return paths


@given(st.sampled_from(CODECS), st.lists(st.integers(0, 6), max_size=12), st.booleans())
def test_any_frames_are_those_of_hdf5(caches, codec, frames, given_memory):
    video = CacheReader(caches[codec]).video("video000")
    layout = video.mask_extents()
    out = {n: np.empty((len(frames), *e.row_shape), e.dtype) for n, e in layout.items()}
    read = video.mask_features(frames, out=out if given_memory else None)
    assert read.keys() == layout.keys()
    with h5py.File(caches[codec] / SHARD, "r", locking=False) as file:
        for name, array in read.items():
            stored = file[f"videos/video000/mask_features/{name}"]
            assert array.dtype == stored.dtype
            assert np.array_equal(array, stored[()][frames])
            assert (array is out[name]) == given_memory
        queries = np.empty((len(frames), 5, 16), video.frame_queries([0]).dtype)
        assert video.frame_queries(frames, out=queries) is queries
        assert np.array_equal(queries, file["videos/video000/frame_queries"][()][frames])


@pytest.mark.parametrize(
    "out",
    [
        np.empty((3, 5, 16), np.float16),
        np.empty((2, 5, 16), np.float32),
        np.empty((2, 16, 5), np.float16).swapaxes(1, 2),
        np.broadcast_to(np.float16(0), (2, 5, 16)),
    ],
)
def test_memory_that_does_not_fit_is_refused(caches, out):
    video = CacheReader(caches["float16"]).video("video000")
    with pytest.raises(ValueError, match="out"):
        video.frame_queries([0, 1], out=out)


def test_hdf5_is_asked_once(caches, monkeypatch):
    reader = CacheReader(caches["float16"])

    def everything():
        video = reader.video("video000")
        expression = video.expression(video.expression_ids[1])
        return [
            video.frame_queries([2]),
            video.mask_features([2])["values"],
            video.video_queries(),
            video.video_logits(),
            video.video_mask_embeds(),
            video.tracks(),
            *vars(video.clip(1)).values(),
            expression.words,
            expression.offsets,
            np.array([expression.text, str(video.objects()), *video.annotation_ids]),
        ]

    first = everything()
    reader.close()
    monkeypatch.setattr(open_shard_module, "open_shard", None)
    for a, b in zip(first, everything(), strict=True):
        assert np.array_equal(a, b)


def replaced(path, **options):
    """The frame queries stored in another way, with the same attributes and numbers."""
    with h5py.File(path / SHARD, "r+") as file:
        data = file["videos/video000/frame_queries"][()]
        del file["videos/video000/frame_queries"]
        file["videos/video000"].create_dataset("frame_queries", data=data, **options)


@pytest.mark.parametrize("options", [{"chunks": (2, 5, 16)}, {"chunks": (1, 5, 8)}])
def test_other_chunks_are_refused(tmp_path, options):
    write_cache(tmp_path, num_videos=1)
    replaced(tmp_path, **options)
    with pytest.raises(InputError, match="frame_queries is stored neither"):
        CacheReader(tmp_path).video("video000").frame_queries()


def test_compact_storage_is_refused(tmp_path):
    write_cache(tmp_path, num_videos=1)
    with h5py.File(tmp_path / SHARD, "r+") as file:
        group = file["videos/video000"]
        data = group["tracks"][()]
        del group["tracks"]
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_layout(h5py.h5d.COMPACT)
        kind = h5py.h5t.py_create(data.dtype, logical=True)
        space = h5py.h5s.create_simple(data.shape)
        made = h5py.h5d.create(group.id, b"tracks", kind, space, plist)
        made.write(h5py.h5s.ALL, h5py.h5s.ALL, data)
    with pytest.raises(InputError, match="tracks is stored neither"):
        CacheReader(tmp_path).video("video000").tracks()


def test_contiguous_frames_are_as_good_as_chunks(tmp_path):
    made = write_cache(tmp_path, num_videos=1)[0]
    replaced(tmp_path)
    read = CacheReader(tmp_path).video("video000").frame_queries([5, 0])
    assert np.array_equal(read, made.frame_queries[[5, 0]].astype(np.float16))


def test_numbers_of_another_make_are_refused(tmp_path):
    """HDF5 would convert them; read as they are they would be other numbers."""
    with h5py.File(tmp_path / "a.h5", "w") as file:
        odd = h5py.h5t.IEEE_F32LE.copy()
        odd.set_fields(31, 22, 9, 0, 22)
        odd.set_ebias(255)
        space = h5py.h5s.create_simple((3, 4))
        h5py.h5d.create(file.id, b"odd", odd, space)
        with pytest.raises(InputError, match="odd does not hold plain"):
            locate(file["odd"], 1 << 20)


@pytest.mark.parametrize("chunks", [None, (1, 100)])
def test_what_reaches_beyond_the_file_is_refused(tmp_path, chunks):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("a", data=np.arange(1000.0).reshape(10, 100), chunks=chunks)
        file.flush()
        extent = locate(file["a"], path.stat().st_size)
        last = extent.start(9) + extent.row_bytes
        assert locate(file["a"], last) and extent.row_shape == (100,)
        with pytest.raises(InputError, match="a reaches beyond the"):
            locate(file["a"], last - 1)


def test_a_user_block_is_refused(tmp_path):
    """It shifts every address, which not all versions of HDF5 say in the same way."""
    write_cache(tmp_path, num_videos=1)
    content = (tmp_path / SHARD).read_bytes()
    (tmp_path / SHARD).write_bytes(bytes(512) + content)
    with pytest.raises(InputError, match="user block"):
        CacheReader(tmp_path).video("video000")


def test_a_shard_that_goes_away_is_named(tmp_path):
    write_cache(tmp_path, num_videos=1)
    reader = CacheReader(tmp_path)
    video = reader.video("video000")
    video.mask_features([0])
    (tmp_path / SHARD).rename(tmp_path / "elsewhere")
    assert len(video.mask_features([1])["values"]) == 1  # it is still open
    reader.close()
    with pytest.raises(InputError, match=f"{SHARD} cannot be opened .it is missing"):
        video.mask_features([0])


def test_a_shard_that_is_cut_short_while_open_is_named(tmp_path):
    write_cache(tmp_path, num_videos=1)
    video = CacheReader(tmp_path).video("video000")
    video.mask_features()
    os.truncate(tmp_path / SHARD, 4096)
    with pytest.raises(InputError, match=f"{SHARD} has been cut short"):
        video.mask_features()


@pytest.mark.parametrize("change", ["touch", "replace"])
def test_a_shard_that_has_changed_is_not_read_by_old_offsets(tmp_path, change):
    write_cache(tmp_path, num_videos=1)
    reader = CacheReader(tmp_path)
    video = reader.video("video000")
    reader.close()
    if change == "touch":
        os.utime(tmp_path / SHARD, ns=(0, 0))
    else:
        content = (tmp_path / SHARD).read_bytes()
        (tmp_path / SHARD).unlink()
        (tmp_path / SHARD).write_bytes(content)
    with pytest.raises(InputError, match=f"{SHARD} has changed"):
        video.frame_queries()


def test_a_shard_replaced_between_two_opens_is_refused(tmp_path, monkeypatch):
    write_cache(tmp_path, num_videos=1)
    real = open_shard_module.open_shard

    def replace_and_open(path):
        os.utime(path, ns=(0, 0))
        return real(path)

    reader = CacheReader(tmp_path)
    monkeypatch.setattr(open_shard_module, "open_shard", replace_and_open)
    with pytest.raises(InputError, match="has changed"):
        reader.video("video000")


def test_what_cannot_be_read_is_told_from_what_is_missing(tmp_path):
    file = RandomAccessFile(tmp_path)  # a folder can be opened, but not read
    with pytest.raises(SystemTrouble, match="cannot be read: Is a directory"):
        file.read(0, np.empty(4, np.uint8))
    with pytest.raises(InputError, match="cannot be opened .it is missing"):
        RandomAccessFile(tmp_path / "nowhere")


@pytest.mark.parametrize("frames", [[0, 6], [-1, 2], [3, 3], []])
def test_clips_of_other_frames_are_refused(tmp_path, frames):
    made = write_cache(tmp_path, num_videos=1, num_clips=1, clip_frames=2)[0]
    with h5py.File(tmp_path / SHARD, "r+") as file:
        clips = file[f"videos/{made.id}/clips"]
        tracks = clips["tracks"][:, :, : len(frames)]
        del clips["frame_indices"], clips["tracks"]
        clips["frame_indices"], clips["tracks"] = np.array([frames], np.int32), tracks
    with pytest.raises(InputError, match="clip 0 is not of frames of the video"):
        CacheReader(tmp_path, check=False).video(made.id).clip(0)


def open_files() -> int:
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts descriptors in /proc")
def test_descriptors_are_few_and_given_back(tmp_path, monkeypatch):
    monkeypatch.setattr(reader_module, "MAX_OPEN", 2)
    videos = write_cache(tmp_path, num_videos=6, shard_bytes=1)
    before = open_files()
    reader = CacheReader(tmp_path)
    known = [reader.video(made.id) for made in videos]
    for made, video in zip(2 * videos, 2 * known, strict=True):
        video.mask_features()
        assert len(video.frame_queries()) == len(made.frame_names)
        assert open_files() <= before + 4
    reader.close()
    assert open_files() == before


def test_what_is_forgotten_is_read_again(tmp_path, monkeypatch):
    monkeypatch.setattr(reader_module, "MAX_KNOWN", 2)
    monkeypatch.setattr(open_shard_module, "MAX_NODES", 5)
    videos = write_cache(tmp_path, num_videos=4)
    reader = CacheReader(tmp_path)
    for made in 2 * videos:
        read = reader.video(made.id)
        assert read.objects() == made.objects
        assert np.array_equal(read.frame_queries(), made.frame_queries.astype(np.float16))


def test_threads_share_a_reader(tmp_path, monkeypatch):
    monkeypatch.setattr(reader_module, "MAX_OPEN", 1)  # each closes what the others read from
    videos = write_cache(tmp_path, num_videos=4, num_frames=9, shard_bytes=1, codec="float32")
    reader = CacheReader(tmp_path, ram_bytes=20000)
    wrong: list[object] = []

    def read(seed):
        rng = np.random.default_rng(seed)
        try:
            for _ in range(60):
                made = videos[rng.integers(4)]
                video, frames = reader.video(made.id), rng.integers(9, size=3)
                values = video.mask_features(frames)["values"]
                if not (
                    np.array_equal(values, made.mask_features[frames])
                    and np.array_equal(video.frame_queries(frames), made.frame_queries[frames])
                    and video.expression("1").text == made.expressions[1].text
                ):
                    wrong.append(made.id)
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_fork_while_others_read_does_not_hang(tmp_path):
    made = write_cache(tmp_path, num_videos=1, codec="float32")[0]
    reader = CacheReader(tmp_path, ram_bytes=1 << 20)
    reader.video(made.id).frame_queries()
    stop = threading.Event()

    def read_on():
        while not stop.is_set():
            reader.video(made.id).frame_queries()

    thread = threading.Thread(target=read_on)
    thread.start()
    try:
        for _ in range(5):

            def child():
                queries = reader.video(made.id).frame_queries()
                assert np.array_equal(queries, made.frame_queries)

            with reader._lock:  # as if another thread held it at that moment
                assert in_child(child) == 0
    finally:
        stop.set()
        thread.join()


def spawned(reader, queue):
    queue.put(reader.video("video000").frame_queries([1]))


def test_a_spawned_process_reads(caches):
    context = multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    reader = CacheReader(caches["float16"], ram_bytes=1000)
    expected = reader.video("video000").frame_queries([1])
    process = context.Process(target=spawned, args=(reader, queue))
    process.start()
    assert np.array_equal(queue.get(), expected)
    process.join()
    assert process.exitcode == 0
