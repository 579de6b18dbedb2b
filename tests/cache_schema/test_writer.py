"""The writer's refusals: bad data, another fingerprint, a second writer, a full disk."""

import dataclasses
import errno
import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np
import pytest

from cache_schema import manifest
from cache_schema.codecs import get_codec
from cache_schema.host.cli import InputError
from cache_schema.host.system import SystemTrouble
from cache_schema.reader import CacheReader
from cache_schema.verify import verify
from cache_schema.video_writer import VideoWriter
from cache_schema.writer import CacheWriter
from tests.cache_schema.helpers import contents, in_child
from tests.synthetic import (
    FACTS,
    make_segmenter,
    make_video,
    open_writer,
    write_cache,
    write_video,
)


@pytest.mark.parametrize(
    "name",
    [
        "frame_queries",
        "video_queries",
        "video_logits",
        "video_mask_embeds",
        "tracks",
    ],
)
def test_non_finite_values_name_the_dataset_and_take_the_video_out(tmp_path, name):
    good, bad = make_video(0), make_video(1)
    getattr(bad, name).flat[3] = np.nan
    with open_writer(tmp_path) as writer:
        write_video(writer, good)
        with pytest.raises(InputError, match=f"'video001', {name} .*NaN"):
            write_video(writer, bad)
    assert list(contents(tmp_path)) == ["video000"] and verify(tmp_path).sound


@pytest.mark.parametrize(
    ("part", "field", "name"),
    [("clips", "tracks", "clips/tracks"), ("expressions", "words", "expressions/0/words")],
)
def test_non_finite_values_in_clips_and_words(tmp_path, part, field, name):
    bad = make_video(0)
    getattr(getattr(bad, part)[0], field).flat[0] = np.inf
    with open_writer(tmp_path) as writer, pytest.raises(InputError, match=name):
        write_video(writer, bad)


def test_frame_queries_may_come_when_all_mask_features_are_there(tmp_path, monkeypatch):
    append, finish, waiting = VideoWriter.append, VideoWriter.finish, []

    def without_queries(self, frame_queries, coded):
        waiting.append(frame_queries)
        append(self, None, coded)

    def with_queries(self, **rest):
        append(self, np.concatenate(waiting), {})
        finish(self, **rest)

    with open_writer(tmp_path / "usual") as writer:
        write_video(writer, make_video(0))
    monkeypatch.setattr(VideoWriter, "append", without_queries)
    with open_writer(tmp_path / "lacking") as writer, pytest.raises(InputError, match="0 frames"):
        write_video(writer, make_video(0))
    waiting.clear()
    monkeypatch.setattr(VideoWriter, "finish", with_queries)
    with open_writer(tmp_path / "late") as writer:
        write_video(writer, make_video(0))
    assert contents(tmp_path / "late") == contents(tmp_path / "usual")
    assert verify(tmp_path / "late").sound


def test_mask_features_must_be_there(tmp_path, monkeypatch):
    append = VideoWriter.append
    monkeypatch.setattr(VideoWriter, "append", lambda self, queries, _: append(self, queries, {}))
    with open_writer(tmp_path) as writer, pytest.raises(InputError, match="has 0 frames"):
        write_video(writer, make_video(0))


def change(video, **fields):
    return dataclasses.replace(video, **fields)


BAD_INPUT = {
    "no frames": (lambda v: change(v, frame_names=[]), "no frames"),
    "frames missing": (lambda v: change(v, frame_names=[*v.frame_names, "x"]), "has 6 frames"),
    "too many frames": (lambda v: change(v, frame_names=v.frame_names[:5]), "more frames than"),
    "empty id": (lambda v: change(v, id=""), "id is empty"),
    "text with NUL": (
        lambda v: change(v, expressions=[change(v.expressions[0], text="a\0")]),
        "NUL",
    ),
    "two expressions of one id": (
        lambda v: change(v, expressions=v.expressions[:1] * 2),
        "two expressions",
    ),
    "masks missing": (lambda v: change(v, objects={"a": [None]}), "'a': it has 1 masks for 6"),
    "mask of another size": (
        lambda v: change(v, objects={"a": [{"size": [1, 2], "counts": "x"}] + [None] * 5}),
        r"frame 0 has the size \[1, 2\]",
    ),
    "mask without counts": (
        lambda v: change(v, objects={"a": [{"size": [45, 67], "counts": [1]}] + [None] * 5}),
        "not a compressed",
    ),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_one_sentence_and_leaves_nothing(tmp_path, case):
    spoil, message = BAD_INPUT[case]
    with open_writer(tmp_path) as writer, pytest.raises(InputError, match=message):
        write_video(writer, spoil(make_video(0)))
    assert not list(tmp_path.glob("*.h5"))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda v: change(v, video_queries=v.video_queries[:, :3]),
        lambda v: change(v, tracks=v.tracks[:, :2]),
        lambda v: change(v, mask_features=v.mask_features[..., :3]),
        lambda v: change(v, frame_queries=v.frame_queries[0]),
        lambda v: change(v, geometry=change(v.geometry, padded_height=33)),
        lambda v: change(v, clips=[change(v.clips[0], frame_indices=np.array([0, 1, 2, 99]))]),
    ],
)
def test_shapes_that_do_not_fit_are_mistakes_of_the_caller(tmp_path, spoil):
    with open_writer(tmp_path) as writer, pytest.raises(ValueError):
        write_video(writer, spoil(make_video(0)))


def test_an_exception_takes_the_video_out_and_the_rest_is_kept(tmp_path):
    with pytest.raises(KeyError), open_writer(tmp_path) as writer:
        write_video(writer, make_video(0))
        made = make_video(1)
        with writer.video("x", geometry=made.geometry, frame_names=made.frame_names) as video:
            video.append(made.frame_queries, writer.codec.encode(made.mask_features))
            raise KeyError("reading a frame went wrong")
    assert CacheReader(tmp_path).video_ids == ["video000"] and verify(tmp_path).sound


def test_coded_frames_are_readable_before_the_end(tmp_path):
    made = make_video(0)
    with open_writer(tmp_path) as writer, pytest.raises(ValueError, match="without finish"):  # noqa: SIM117
        with writer.video("x", geometry=made.geometry, frame_names=made.frame_names) as video:
            video.append(made.frame_queries[:2], writer.codec.encode(made.mask_features[:2]))
            coded = video.mask_features(1)["values"]
            assert np.array_equal(coded, made.mask_features[1:2].astype(np.float16))
            with pytest.raises(IndexError):
                video.mask_features(2)


def test_failures_are_listed_tried_again_and_forgotten(tmp_path):
    with open_writer(tmp_path) as writer:
        write_video(writer, make_video(0))
        writer.fail("video001", "frame 3 is no image")
        writer.fail("odd\ud800\0", "its name")
        with pytest.raises(ValueError):
            writer.fail("video000", "no")
    reader = CacheReader(tmp_path)
    assert reader.failures == {"video001": "frame 3 is no image", "odd\ud800\0": "its name"}
    with pytest.raises(InputError, match="frame 3 is no image"):
        reader.video("video001")
    with open_writer(tmp_path) as writer:
        assert writer.done == {"video000"} and "video001" in writer.failures
        write_video(writer, make_video(1))
    assert CacheReader(tmp_path).failures.keys() == {"odd\ud800\0"}


def test_a_cache_without_a_finished_video_says_so(tmp_path):
    with open_writer(tmp_path) as writer:
        writer.fail("a", "it is broken")
    with pytest.raises(InputError, match="no finished video yet; 'a' failed: it is broken"):
        CacheReader(tmp_path)


def test_manifest_lines_are_as_the_format_says(tmp_path):
    write_cache(tmp_path, num_videos=2)
    *videos, shard = map(json.loads, (tmp_path / "manifest.jsonl").read_text().splitlines())
    for i, line in enumerate(videos):
        assert line.keys() == {"id", "shard", "frames", "bytes", "checksum", "crc32"}
        assert (line["id"], line["shard"], line["frames"]) == (f"video00{i}", "shard-00000.h5", 6)
    data = (tmp_path / "shard-00000.h5").read_bytes()
    sha256 = hashlib.sha256(data).hexdigest()
    del shard["crc32"]
    assert shard == {"shard": "shard-00000.h5", "size": len(data), "sha256": sha256}


def test_a_video_twice_and_a_closed_writer(tmp_path):
    with open_writer(tmp_path) as writer:
        write_video(writer, make_video(0))
        with pytest.raises(ValueError, match="in the cache"):
            write_video(writer, make_video(0))
    writer.close()
    with pytest.raises(ValueError, match="closed"):
        write_video(writer, make_video(1))


def test_another_fingerprint_is_refused_naming_fields_and_values(tmp_path):
    write_cache(tmp_path, num_videos=1)
    with pytest.raises(InputError, match=r"segmenter\.seed: 0 != 7 \(found != expected\)"):
        open_writer(tmp_path, seed=7)
    fingerprint = CacheReader(tmp_path).fingerprint
    with pytest.raises(InputError, match='split: "train" != "valid"'):
        CacheWriter(
            tmp_path,
            fingerprint=fingerprint,
            dataset="synthetic",
            split="valid",
            codec=get_codec("float16"),
            facts=FACTS,
            segmenter=make_segmenter(),
        )
    write_cache(tmp_path, num_videos=2)  # the refusals let go of the lock


def test_a_second_writer_is_refused_until_the_first_is_done(tmp_path):
    with open_writer(tmp_path), pytest.raises(InputError, match="another process is writing"):
        open_writer(tmp_path)
    open_writer(tmp_path).close()


def test_unwritable_places(tmp_path):
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path / "file" / "cache", "/proc/cache"):
        with pytest.raises(InputError, match="cannot write the cache .*choose a folder"):
            open_writer(path)
    assert (tmp_path / "file").read_text() == "x"


@pytest.mark.parametrize("limit", [3000, 30000, 60000])
def test_a_full_disk_is_one_sentence_and_the_rest_resumes(tmp_path, limit):
    path = tmp_path / "cache"
    write_cache(path, num_videos=1)

    def write():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        with pytest.raises(InputError, match="cannot write.*same command continues"):  # noqa: SIM117
            with open_writer(path) as writer:
                for i in (1, 2, 3, 4):
                    try:
                        write_video(writer, make_video(i))
                    except InputError:
                        writer.fail(f"video{i:03d}", "not this video's fault: must raise")

    assert in_child(write) == 0
    assert not list(path.glob(".shard*"))
    assert manifest.read(path).failures == {} and verify(path).sound
    write_cache(path, num_videos=5)
    write_cache(tmp_path / "whole", num_videos=5)
    assert contents(path) == contents(tmp_path / "whole")


def test_the_next_shard_is_written_while_one_is_sealed(tmp_path, monkeypatch):
    """What is not on the disk yet is not called safe; the next shard is sealed after it."""
    go_on, real = threading.Event(), os.fsync
    with open_writer(tmp_path, shard_bytes=1) as writer:
        monkeypatch.setattr(os, "fsync", lambda descriptor: (go_on.wait(), real(descriptor)))
        write_video(writer, make_video(0))
        with pytest.raises(ValueError, match="is in the cache"):
            write_video(writer, make_video(0))
        real_append = VideoWriter.append

        def append(self, *arrays):
            real_append(self, *arrays)
            assert not writer.done and not manifest.read(tmp_path).videos
            go_on.set()

        with monkeypatch.context() as patch:
            patch.setattr(VideoWriter, "append", append)
            write_video(writer, make_video(1), chunk=6)  # all of it
        assert writer.done == {"video000"} <= manifest.read(tmp_path).videos.keys()
        writer.settle()
        assert writer.done == {"video000", "video001"} == manifest.read(tmp_path).videos.keys()


@pytest.mark.parametrize("told", ["next", "fail", "close"])
def test_a_shard_that_cannot_be_sealed_ends_the_run(tmp_path, monkeypatch, told):
    """The shard after it is not entered either, and the rest resumes."""

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    said = "cannot write the cache .*No space left.*same command continues"
    with pytest.raises(InputError, match=said), open_writer(tmp_path, shard_bytes=1) as writer:
        write_video(writer, make_video(0))
        writer.settle()
        monkeypatch.setattr(os, "fsync", full)
        write_video(writer, make_video(1))
        if told != "close":
            with pytest.raises(InputError, match=said):
                if told == "next":
                    write_video(writer, make_video(2))
                else:
                    writer.fail("video002", "not this video's fault")
            write_video(writer, make_video(3))
    monkeypatch.undo()
    assert manifest.read(tmp_path).videos.keys() == {"video000"}
    assert not manifest.read(tmp_path).failures and not list(tmp_path.glob(".shard*"))
    write_cache(tmp_path, num_videos=4)
    assert verify(tmp_path).sound and len(CacheReader(tmp_path)) == 4


FULL = """
import resource, sys
from cache_schema.host.cli import run
from tests.synthetic import write_cache

resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
sys.exit(run(lambda _: write_cache(sys.argv[1], num_videos=5) and None))
"""


@pytest.mark.parametrize("limit", [7000, 50000, 90000])
def test_a_full_disk_ends_a_command_with_its_one_sentence(tmp_path, limit):
    """HDF5, left to itself, prints a trace for every object of the file and may crash."""
    command = [sys.executable, "-c", FULL, str(tmp_path / "cache"), str(limit)]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (2, "", 1), ended.stderr
    assert "File too large; what is finished is safe, and the same command" in ended.stderr
    write_cache(tmp_path / "cache", num_videos=5)
    write_cache(tmp_path / "whole", num_videos=5)
    assert contents(tmp_path / "cache") == contents(tmp_path / "whole")


@pytest.fixture
def open_folder():
    """A folder that an ordinary user reaches and owns."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        folder = Path(name) / "cache"
        folder.mkdir()
        if os.getuid() == 0:
            os.chown(folder, 65534, 65534)
        yield folder


def as_user(function):
    """Run in a child that no permission is ignored for."""

    def child():
        if os.getuid() == 0:
            os.setgid(65534)
            os.setuid(65534)
        function()

    assert in_child(child) == 0


def test_a_permission_lost_on_the_way(open_folder, tmp_path):
    def write():
        sealing = "cannot write the cache .*: Permission denied; what is finished is safe"
        with pytest.raises(InputError, match=sealing), open_writer(open_folder) as writer:
            write_video(writer, make_video(0))
            os.chmod(open_folder, 0o555)
        with pytest.raises(InputError, match="Permission denied; choose a folder"):
            open_writer(open_folder)
        os.chmod(open_folder, 0o755)
        write_cache(open_folder, num_videos=2)
        os.chmod(open_folder, 0o555)
        assert verify(open_folder).sound and len(CacheReader(open_folder)) == 2

    as_user(write)
    write_cache(tmp_path / "whole", num_videos=2)
    assert contents(open_folder) == contents(tmp_path / "whole")


def test_files_that_may_not_be_touched(open_folder):
    def write():
        write_cache(open_folder, num_videos=1)
        manifest_file, shard = open_folder / "manifest.jsonl", open_folder / "shard-00000.h5"
        before = manifest_file.read_bytes(), shard.read_bytes()
        for path, mode, message in (
            (manifest_file, 0o444, "cannot write the cache .*: Permission denied"),
            (manifest_file, 0o000, "manifest.jsonl cannot be read"),
            (shard, 0o000, "shard-00000.h5 cannot be read: Permission denied"),
            (open_folder / ".lock", 0o444, "cannot write the cache .*: Permission denied"),
        ):
            path.chmod(mode)
            with pytest.raises((InputError, SystemTrouble), match=message):
                open_writer(open_folder)
            path.chmod(0o644)
            assert before == (manifest_file.read_bytes(), shard.read_bytes())
        # Without its lines the shard could still be sound, so it is not thrown away.
        manifest_file.unlink()
        shard.chmod(0o000)
        with pytest.raises((InputError, SystemTrouble), match="Permission denied"):
            open_writer(open_folder)
        shard.chmod(0o644)
        write_cache(open_folder, num_videos=1)
        assert before == (manifest_file.read_bytes(), shard.read_bytes())

    as_user(write)


def test_a_lost_shard_is_extracted_again(tmp_path):
    write_cache(tmp_path, num_videos=4, shard_bytes=1)
    before = contents(tmp_path)
    (tmp_path / "shard-00001.h5").unlink()
    assert list(verify(tmp_path).damaged) == ["video001"]
    write_cache(tmp_path, num_videos=4, shard_bytes=1)
    assert contents(tmp_path) == before and verify(tmp_path).sound


def test_what_only_looks_like_a_shard_is_replaced(tmp_path):
    write_cache(tmp_path, num_videos=1)
    (tmp_path / "shard-00001.h5").write_bytes(b"half written")
    assert not verify(tmp_path).sound
    write_cache(tmp_path, num_videos=2)
    assert verify(tmp_path).sound and len(CacheReader(tmp_path)) == 2


def test_memory_does_not_grow_with_the_number_of_frames(tmp_path):
    frame = np.ones((1, 64, 48, 64), np.float32)
    queries = np.ones((1, 5, 16), np.float32)
    made = make_video(0, C=64, h=48, w=64, num_frames=1)

    def write():
        names = [str(t) for t in range(150)]
        with open_writer(tmp_path, codec="float32") as writer, pytest.raises(KeyError):  # noqa: SIM117
            with writer.video("x", geometry=made.geometry, frame_names=names) as video:
                video.append(queries, {"values": frame})
                start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
                for _ in names[1:]:
                    video.append(queries, {"values": frame})
                grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start
                assert grown < 20_000, grown  # KiB; the frames are 115 MB
                raise KeyError

    assert in_child(write) == 0
