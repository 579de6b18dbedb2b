"""Threads and processes of stage one: the same bytes, errors as what they were, no deadlock."""

import dataclasses
import os
import resource
import shutil
import signal
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from stage_one import DEMO, image_folder, small_config, small_data

from cache_schema import manifest
from cache_schema.host import cli
from cache_schema.host.cli import InputError
from cache_schema.host.system import SystemTrouble
from cache_schema.reader import CacheReader
from cache_schema.verify import verify
from extract.__main__ import main
from extract.codecs import video_tracks as video_tracks_module
from extract.datasets import MeViS
from extract.pipeline import coding, reading, writing
from extract.pipeline import run as pipeline
from extract.pipeline.beside import Child, ahead
from extract.pipeline.parts import Images
from extract.pipeline.run import extract
from extract.pipeline.transfer import Transfer
from extract.segmenters.base import FrameOutput
from extract.segmenters.vita import VITA
from extract.stage import RANDOM, load_stage
from tests.cache_schema.helpers import contents, in_child
from tests.processes import Command, module


@pytest.fixture(autouse=True)
def no_deadlock():
    """A test that waits for ever fails."""

    def late(*_):
        raise TimeoutError("this waits for ever")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(900)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Four videos of 12 frames: 3 chunks of 5."""
    return small_data(tmp_path_factory.mktemp("data"), videos=4)


def run(data, out, **options):
    settings = dict(split="train", weights=RANDOM, device="cpu", chunk_frames=5) | options
    return extract(small_config(), data_root=data, out=out, **settings)


@pytest.fixture(scope="module")
def sequential(data, tmp_path_factory):
    """What one thread writes."""
    out = tmp_path_factory.mktemp("sequential") / "cache"
    run(data, out, queue=0)
    return contents(out)


# --- the two ways to work ahead


def test_ahead_keeps_the_order_and_its_distance():
    made = []

    def items():
        for k in range(20):
            made.append(k)
            yield k

    with ahead(items(), 3, "test") as lane:
        for k, item in enumerate(lane):
            assert item == k
            time.sleep(0.002)
            assert len(made) <= k + 1 + 3 + 1  # taken, waiting, and one in the making
    assert len(made) == 20


def test_ahead_weighs_what_waits():
    made = []
    items = (made.append(k) or k for k in range(10))
    with ahead(items, 5, "test", weight=lambda k: 4) as lane:
        while len(made) < 3:
            time.sleep(0.001)
        time.sleep(0.05)  # whoever can go on does
        assert made == [0, 1, 2]  # 8 have no room left, and a third cannot be put
        assert list(lane) == list(range(10))


def test_ahead_raises_the_very_error_after_what_came_before_it():
    error = KeyError("mine")

    def items():
        yield 1
        raise error

    with ahead(items(), 4, "test") as lane:
        assert next(lane) == 1
        with pytest.raises(KeyError) as raised:
            next(lane)
        assert raised.value is error


def test_leaving_ahead_ends_the_thread_and_closes_the_generator():
    closed = threading.Event()

    def endless():
        try:
            while True:
                yield 0
        finally:
            closed.set()

    with pytest.raises(ZeroDivisionError), ahead(endless(), 2, "endless") as lane:  # noqa: PT012
        next(lane)
        raise ZeroDivisionError
    assert closed.is_set()
    assert all(thread.name != "endless" for thread in threading.enumerate())


def test_a_child_is_a_generator_elsewhere():
    def double(items):
        yield os.getpid()
        for item in items:
            yield item * 2

    with Child(double, "doubling") as child:
        outputs = iter(child)
        assert next(outputs) != os.getpid()
        array = torch.arange(100_000).numpy()
        child.put(array)
        assert (next(outputs) == array * 2).all()
        child.put("ab")
        child.end()
        assert list(outputs) == ["abab"]


def test_arrays_of_any_size_and_layout_reach_a_child_and_come_back():
    shapes = [(0,), (1,), (3, 100_001), (2, 0, 5), (1 << 21,)]
    arrays = [np.arange(np.prod(shape), dtype=np.int32).reshape(shape) for shape in shapes]
    arrays += [arrays[2].T, arrays[2][:, ::7]]
    with Child(lambda items: items, "echoing") as child:
        outputs = iter(child)
        for item in (arrays, arrays[::-1]):
            child.put(item)
            for found, array in zip(next(outputs), item, strict=True):
                assert found.dtype == array.dtype and np.array_equal(found, array)


class Unpicklable(Exception):
    def __init__(self, one, two):
        super().__init__(one)


@pytest.mark.parametrize("error", [InputError("bad"), KeyError("x"), Unpicklable("a", "b")])
def test_the_error_of_a_child_is_raised_here_with_its_traceback(error):
    def fail(items):
        yield 1
        raise error

    with Child(fail, "failing") as child:
        outputs = iter(child)
        assert next(outputs) == 1
        expected = RuntimeError if isinstance(error, Unpicklable) else type(error)
        with pytest.raises(expected) as raised:
            next(outputs)
        assert "in the failing process:\nTraceback" in raised.value.__notes__[0]


def test_a_killed_child_is_one_sentence_for_reader_and_writer():
    def killed(items):
        yield os.getpid()
        for _ in items:
            os.kill(os.getpid(), signal.SIGKILL)

    with Child(killed, "dying") as child, pytest.raises(SystemTrouble, match="dying process.*-9"):
        for _ in range(1000):
            child.put(np.zeros(1 << 20, np.uint8))
    with Child(killed, "dying") as child, pytest.raises(SystemTrouble, match="dying process.*-9"):
        child.put(0)
        list(child)


def test_a_child_killed_in_the_middle_of_an_array_is_one_sentence():
    def large(_):
        yield os.getpid()
        yield np.zeros(1 << 26, np.uint8)

    with Child(large, "dying") as child:
        outputs = iter(child)
        os.kill(next(outputs), signal.SIGSTOP)  # it has sent a part of the array, or nothing
        child.kill()
        with pytest.raises(SystemTrouble, match="dying process.*-9"):
            next(outputs)


def test_leaving_a_child_ends_its_items_and_waits(tmp_path):
    def until_told(items):
        yield 0
        try:
            next(items)
        except (EOFError, OSError):
            time.sleep(0.2)
            (tmp_path / "told").touch()

    with Child(until_told, "waiting") as child:
        next(iter(child))
    assert (tmp_path / "told").exists()


# --- the pipeline


@pytest.mark.parametrize("queue", [1, 4])
def test_the_cache_is_the_same_whatever_works_ahead(data, sequential, tmp_path, queue):
    run(data, tmp_path / "cache", queue=queue)
    assert contents(tmp_path / "cache") == sequential


@pytest.mark.parametrize("readers", [2, 3, 8])
def test_the_cache_is_the_same_whoever_reads(data, sequential, tmp_path, readers):
    run(data, tmp_path / "cache", readers=readers, chunk_frames=5)
    assert contents(tmp_path / "cache") == sequential


def plain(part):
    """A part with its arrays as bytes, to be compared with others."""
    arrays = []

    def known(value):
        if isinstance(value, np.ndarray):
            arrays.append((value.shape, value.dtype.str, value.tobytes()))
            return len(arrays)
        if isinstance(value, list):
            return [known(each) for each in value]
        return (
            {k: known(v) for k, v in vars(value).items()} if hasattr(value, "__dict__") else value
        )

    return type(part).__name__, known(part), arrays


def stream_of(data, readers, videos=4, change=None):
    """What several processes read of a data set, or this one for 0, with arrays as bytes."""
    stage = load_stage(small_config(), RANDOM, "cpu", has_text=True, chunk_frames=5)
    dataset = MeViS(data, "train")
    ids = dataset.ids[:videos]
    if change:
        change(dataset)
    if not readers:
        return [(i, plain(part)) for i, part in reading.read(stage, dataset, ids)]
    with reading.reading(stage, dataset, ids, readers) as (stream, _):
        return [(i, plain(part)) for i, part in stream]


@pytest.mark.parametrize("readers", [1, 2, 5])
def test_several_processes_read_what_one_would(data, tmp_path, readers):
    """Also of videos whose first frame, later frames or sentences are bad."""
    root = Path(shutil.copytree(data, tmp_path / "data"))
    folder = root / "train/JPEGImages"
    (folder / "train_0000/00007.jpg").unlink()
    (folder / "train_0000/00011.jpg").unlink()
    (folder / "train_0001/00000.jpg").write_text("no image")

    def empty(dataset):
        real = dataset.video

        def video(video_id, **how):
            source = real(video_id, **how)
            if video_id == "train_0002":
                source.expressions[0] = dataclasses.replace(source.expressions[0], text=" ")
            return source

        dataset.video = video

    expected = stream_of(root, 0, change=empty)
    assert [part[0] for _, part in expected].count("Failed") == 3
    assert stream_of(root, readers, change=empty) == expected


def test_readers_are_a_bounded_number_of_chunks_ahead(data, tmp_path):
    """Chunks are asked for, not read as fast as they can be."""
    stage = load_stage(small_config(), RANDOM, "cpu", has_text=True, chunk_frames=1)
    dataset = MeViS(data, "train")
    real = dataset.video

    def video(video_id, **how):
        source = real(video_id, **how)
        read = source.read_frame

        def noted(t):
            (tmp_path / f"{video_id}-{t}").touch()
            return read(t)

        source.read_frame = noted
        return source

    dataset.video = video
    seen = 0
    with reading.reading(stage, dataset, dataset.ids, 3) as (stream, _):
        for _, part in stream:
            if isinstance(part, Images):
                seen += 1
                if seen % 8 == 0:
                    time.sleep(0.05)  # whoever can go on does
                assert len(list(tmp_path.iterdir())) <= seen + reading.ASKED * 2
    assert seen == 48


@pytest.mark.parametrize("what", ["read_images", "read_heads"])
@pytest.mark.parametrize("how", ["killed", "silent"])
def test_a_reader_that_dies_ends_the_run_and_the_rest_resumes(
    data, sequential, tmp_path, monkeypatch, what, how
):
    real = getattr(reading, what)

    def dies(stage, dataset, given):
        for number, item in enumerate(real(stage, dataset, given)):
            if number == 1:
                if how == "silent":
                    return
                os.kill(os.getpid(), signal.SIGKILL)
            yield item

    with monkeypatch.context() as patch:
        patch.setattr(reading, what, dies)
        with pytest.raises((SystemTrouble, RuntimeError), match="reading process|were reached"):
            run(data, tmp_path / "cache", readers=3)
    run(data, tmp_path / "cache", readers=3)
    assert contents(tmp_path / "cache") == sequential


@pytest.mark.parametrize(
    ("cores", "ranks", "expected"), [(2, 1, 1), (16, 1, 13), (16, 4, 1), (128, 4, 16)]
)
def test_beside_a_gpu_the_other_cores_read(monkeypatch, cores, ranks, expected):
    monkeypatch.setattr(pipeline, "CORES", cores)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(ranks))
    assert pipeline.default_readers(torch.device("cuda")) == expected
    assert pipeline.default_readers(torch.device("cpu")) == 1


def break_at(monkeypatch, owner, name, count, error):
    """Raise an error at the count-th call of a function, in whatever thread or process that is."""
    real, calls = getattr(owner, name), [0]

    def call(*args, **kwargs):
        calls[0] += 1
        if calls[0] == count:
            raise error
        return real(*args, **kwargs)

    monkeypatch.setattr(owner, name, call)


PLACES = {
    "reader": (reading, "encode_expressions", 3),
    "model": (VITA, "frames", 7),
    "coder": (coding.mask_codec, "encode", 8),
    "writer": (writing, "video_tracks", 3),
}


@pytest.mark.parametrize("place", PLACES)
def test_an_error_anywhere_arrives_as_what_it_was_and_the_rest_resumes(
    data, sequential, tmp_path, monkeypatch, place
):
    with monkeypatch.context() as patch:
        break_at(patch, *PLACES[place], ZeroDivisionError("a bug"))
        with pytest.raises(ZeroDivisionError, match="a bug") as raised:
            run(data, tmp_path / "cache")
    assert [n for n in raised.value.__notes__ if n.startswith("while")] == [
        "while extracting video 'train_0002'"
    ]
    done = set(CacheReader(tmp_path / "cache").video_ids)
    assert done <= {"train_0000", "train_0001"}
    assert run(data, tmp_path / "cache").already_there == len(done)
    assert contents(tmp_path / "cache") == sequential


@pytest.mark.parametrize("place", PLACES)
def test_bad_input_found_anywhere_stops_only_its_video(
    data, sequential, tmp_path, monkeypatch, place
):
    with monkeypatch.context() as patch:
        break_at(patch, *PLACES[place], InputError("bad input"))
        summary = run(data, tmp_path / "cache")
    assert summary.videos == 3 and list(summary.failures) == ["train_0002"]
    assert summary.failures == summary.unfinished == CacheReader(tmp_path / "cache").failures
    assert "bad input" in summary.failures["train_0002"]
    run(data, tmp_path / "cache")
    assert contents(tmp_path / "cache") == sequential


@pytest.mark.parametrize("how", ["killed", "ends early"])
def test_no_run_ends_well_with_videos_that_nobody_reached(
    data, sequential, tmp_path, monkeypatch, how
):
    whole = reading.read

    def lossy(stage, dataset, video_ids):
        for video_id, part in whole(stage, dataset, video_ids):
            if video_id == "train_0002":
                if how == "ends early":
                    return
                os.kill(os.getpid(), signal.SIGKILL)
            yield video_id, part

    said = {"killed": "the reading process ended with status -9", "ends early": "2 of 4 videos"}
    with monkeypatch.context() as patch:
        patch.setattr(reading, "read", lossy)
        with pytest.raises(SystemTrouble, match=said[how]):
            run(data, tmp_path / "cache")
    assert manifest.read(tmp_path / "cache").failures == {}
    run(data, tmp_path / "cache")
    assert contents(tmp_path / "cache") == sequential


def test_too_little_device_memory_names_the_option(data, tmp_path, monkeypatch):
    break_at(monkeypatch, VITA, "frames", 1, torch.OutOfMemoryError("CUDA out of memory"))
    summary = run(data, tmp_path / "cache")
    assert list(summary.failures) == ["train_0000"]
    assert "--chunk-frames 5: give a smaller" in summary.failures["train_0000"]


@pytest.mark.parametrize("room", [40_000, 400_000])
def test_a_full_disk_blames_no_video_and_the_rest_resumes(data, sequential, tmp_path, room):
    out = tmp_path / "cache"

    def fill():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
        with pytest.raises(InputError, match="cannot write the cache.*File too large"):
            run(data, out)

    assert in_child(fill) == 0
    assert manifest.read(out).failures == {}
    run(data, out)
    assert contents(out) == sequential


def test_half_precision_cannot_fail_silently(data, tmp_path, monkeypatch):
    frames = VITA.frames

    def overflow(self, images, state):
        output, _ = frames(self, images)
        features = output.mask_features.clone()
        features[0, 0, 0, 0] = float("inf")
        return FrameOutput(output.frame_queries, features), None

    monkeypatch.setattr(VITA, "frames", overflow)
    reason = run(data, tmp_path / "half", autocast="float16").failures["train_0000"]
    assert "mask_features holds NaN or infinite" in reason and "--autocast none" in reason
    reason = run(data, tmp_path / "single").failures["train_0000"]
    assert "mask_features holds NaN or infinite" in reason and "check the weights" in reason


def test_what_float16_cannot_hold_names_the_codec_that_can(data, tmp_path, monkeypatch):
    frames = VITA.frames

    def large(self, images, state):
        output, _ = frames(self, images)
        features = output.mask_features.clone()
        features[0, 0, 0, 0] = 1e5
        return FrameOutput(output.frame_queries, features), None

    monkeypatch.setattr(VITA, "frames", large)
    reason = run(data, tmp_path / "cache").failures["train_0000"]
    assert "mask_features" in reason and "float32" in reason


@pytest.fixture
def beside(monkeypatch):
    """What is done for results on a GPU, on what there is."""
    real = Transfer.__init__

    def init(self, device):
        real(self, device)
        self.beside = True

    monkeypatch.setattr(Transfer, "__init__", init)


def test_the_way_of_a_gpu_writes_the_same(data, sequential, tmp_path, beside, monkeypatch):
    def never(*_):
        raise AssertionError("tracks are measured already")

    with monkeypatch.context() as patch:
        patch.setattr(writing, "video_tracks", never)
        run(data, tmp_path / "cache")
    found = contents(tmp_path / "cache")
    assert found.keys() == sequential.keys()
    for name, video in sequential.items():
        assert found[name].keys() == video.keys()
        apart = [key for key, value in video.items() if found[name][key] != value]
        assert all("tracks" in key or "overlaps" in key for key in apart)  # by rounding, if at all
    monkeypatch.setattr(video_tracks_module, "KEPT_BYTES", 1)  # videos are too long
    run(data, tmp_path / "long")
    assert contents(tmp_path / "long") == sequential


def test_codes_arrive_while_the_next_ones_are_made(data, tmp_path, beside, monkeypatch):
    real, log = Transfer.downloading, []

    def downloading(self, arrays):
        wait = real(self, arrays)
        if "values" not in arrays:
            return wait
        log.append("asked")

        def waited():
            log.append("waited")
            return wait()

        return waited

    monkeypatch.setattr(Transfer, "downloading", downloading)
    run(data, tmp_path / "cache", queue=0)
    assert log == ["asked", "asked", "waited", "asked", "waited", "waited"] * 4


def test_the_way_of_a_gpu_refuses_what_cannot_be_stored(data, tmp_path, beside, monkeypatch):
    frames = VITA.frames
    bad = {"frame_queries": (0, 0, 0), "mask_features": (0, 0, 0, 0)}

    for name, place in bad.items():

        def broken(self, images, state, name=name, place=place):
            output, _ = frames(self, images)
            changed = {key: getattr(output, key).clone() for key in bad}
            changed[name][place] = float("nan")
            return FrameOutput(**changed), None

        monkeypatch.setattr(VITA, "frames", broken)
        reason = run(data, tmp_path / name).failures["train_0000"]
        assert f"{name} holds NaN or infinite" in reason and "check the weights" in reason


# --- signals, with real processes


@pytest.fixture(scope="module")
def long_data(tmp_path_factory):
    """A folder of eight videos, without text."""
    root = tmp_path_factory.mktemp("videos")
    for k in range(8):
        image_folder(root, f"v{k}", 24 + k)
    return root


def command(long_data, out, *options):
    """The same extraction as a command line: a shard a video, small chunks."""
    config = ["dataset=folder", "clips.num=1", "clips.frames=4"]
    return [str(DEMO), "--data-root", str(long_data), "--weights", "random", "--out", str(out),
            "--device", "cpu", "--shard-bytes", "1", "--chunk-frames", "2", *options,
            "--cfg-options", *config]  # fmt: skip


@pytest.fixture(scope="module")
def one_thread():
    """Numbers of the same commands depend on the number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def whole(long_data, tmp_path_factory, one_thread):
    out = tmp_path_factory.mktemp("whole") / "cache"
    assert cli.run(main, command(long_data, out)) == 0
    return contents(out)


@contextmanager
def held_up(long_data, tmp_path, name):
    """The same videos with a frame of one that never comes: a pipe that nobody writes to."""
    data = Path(shutil.copytree(long_data, tmp_path / "held_up", copy_function=os.link))
    frame = data / name / "00010.png"
    frame.unlink()
    os.mkfifo(frame)
    yield data
    frame.unlink()
    os.link(long_data / name / frame.name, frame)


def wait_for_shards(process, out, count):
    while len(list(out.glob("shard-*.h5"))) < count:
        assert process.status is None, process.said()
        time.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_command_says_so_and_continues(long_data, whole, tmp_path, number):
    out = tmp_path / "cache"
    with held_up(long_data, tmp_path, "v4") as data:
        process = Command(module("extract", command(data, out)), tmp_path / "said")
        wait_for_shards(process, out, 2)
        os.kill(process.pid, number)
        said = process.said()
    assert process.status == 130 and "same command continues" in said
    assert "Traceback" not in said
    assert not list(out.glob(".shard*"))  # the shard in progress was closed
    assert verify(out).sound and 2 <= len(CacheReader(out)) <= 4
    assert cli.run(main, command(data, out)) == 0
    assert contents(out) == whole


def test_a_killed_command_leaves_nothing_running_and_continues(long_data, whole, tmp_path):
    out = tmp_path / "cache"
    with held_up(long_data, tmp_path, "v6") as data:
        for count in (2, 5):
            process = Command(module("extract", command(data, out)), tmp_path / "said")
            wait_for_shards(process, out, count)
            process.kill()
            assert not verify(out).damaged and len(manifest.read(out).videos) <= 6
    # The same command at once: whoever wrote is gone, and so is its lock.
    assert cli.run(main, command(data, out)) == 0
    assert contents(out) == whole
