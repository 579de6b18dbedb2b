"""Killed at any moment, the same command finishes what is missing: real SIGKILL.

``DMVS_CRASHES=150 pytest -s tests/cache_schema/test_crash.py`` kills more often.
"""

import os
import random
import shutil
import signal
import time

import h5py
import pytest

from cache_schema import manifest
from cache_schema.host.cli import InputError
from cache_schema.reader import CacheReader
from cache_schema.verify import verify
from tests.cache_schema.helpers import contents, die, flip, in_child
from tests.synthetic import make_video, open_writer, write_cache, write_video

CRASHES = int(os.environ.get("DMVS_CRASHES", 12))
# Two videos a shard, three shards.
VIDEO = {"num_expressions": 1, "num_clips": 1, "C": 2, "num_frames": 4}
SIZES = {"num_videos": 5, "shard_bytes": 4000, **VIDEO}
VIDEOS = [make_video(i, **VIDEO) for i in range(SIZES["num_videos"])]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "cache"
    write_cache(path, **SIZES)
    assert len(list(path.glob("shard-*.h5"))) == 3
    return contents(path)


def check_resumed(path, uninterrupted):
    write_cache(path, **SIZES)
    assert contents(path) == uninterrupted
    assert len(CacheReader(path)) == SIZES["num_videos"]
    assert verify(path).sound
    assert {p.name for p in path.iterdir() if not manifest.SHARD.fullmatch(p.name)} == {
        ".lock",
        "manifest.jsonl",
    }


def kill_at(monkeypatch, name, count, after):
    """Die at the count-th call of ``os.<name>``, before it or after it."""
    real, calls = getattr(os, name), [0]

    def call(*args, **kwargs):
        calls[0] += 1
        if calls[0] == count and not after:
            die()
        result = real(*args, **kwargs)
        if calls[0] == count:
            die()
        return result

    monkeypatch.setattr(os, name, call)


# Calls of fsync: 2 on opening, then for each shard the file, the folder, the manifest.
MOMENTS = [
    *(("fsync", n, after) for n in (1, 2, 3, 4, 5, 6, 8) for after in (False, True)),
    *(("replace", n, after) for n in (1, 3) for after in (False, True)),
]


@pytest.mark.parametrize(("name", "count", "after"), MOMENTS)
def test_killed_at_a_step_of_sealing(tmp_path, monkeypatch, uninterrupted, name, count, after):
    path = tmp_path / "cache"

    def write():
        kill_at(monkeypatch, name, count, after)
        write_cache(path, **SIZES)

    assert in_child(write) == -signal.SIGKILL
    check_resumed(path, uninterrupted)


def write_and_tell(path, pipe):
    """Write what is missing; tell the parent which videos the writer calls safe, as it goes."""
    with open_writer(path, channels=SIZES["C"], shard_bytes=SIZES["shard_bytes"]) as writer:
        for video in VIDEOS:
            if video.id not in writer.done:
                write_video(writer, video, chunk=1)
                os.write(pipe, "".join(f"{done}\n" for done in writer.done).encode())


def test_killed_at_random_moments_again_and_again(tmp_path, uninterrupted):
    """Each cache is killed until one run gets through; nothing that was safe is ever lost."""
    rng = random.Random(0)
    start = time.monotonic()
    assert in_child(lambda: write_cache(tmp_path / "timed", **SIZES)) == 0
    duration = time.monotonic() - start
    kills = caches = 0
    while kills < CRASHES:
        path = tmp_path / f"cache{caches}"
        killed = True
        while killed:
            reading, writing = os.pipe()
            child = os.fork()
            if child == 0:
                status = 1
                try:
                    write_and_tell(path, writing)
                    status = 0
                finally:
                    os._exit(status)
            os.close(writing)
            time.sleep(rng.uniform(0, duration))
            os.kill(child, signal.SIGKILL)
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            assert status in (0, -signal.SIGKILL)
            killed = status != 0
            kills += killed
            with open(reading) as pipe:
                safe = set(pipe.read().split())
            if killed and (path / "manifest.jsonl").exists():
                # Everything that the manifest lists is really there.
                known = manifest.read(path).videos
                assert safe <= known.keys()
                assert not (known and verify(path).damaged)
            assert not killed or len(list(path.glob(".shard-*"))) <= 2
        check_resumed(path, uninterrupted)
        shutil.rmtree(path)
        caches += 1
    print(f"{kills} kills, {caches} caches")


def test_torn_manifest_line_is_healed_and_its_video_not_lost(tmp_path, uninterrupted):
    path = tmp_path / "cache"
    write_cache(path, **SIZES)
    data = (path / "manifest.jsonl").read_bytes()
    *_, video, shard = data.splitlines(keepends=True)
    torn = (1, 30, len(shard), len(shard) + 1, len(shard) + len(video))
    for cut in torn:
        (path / "manifest.jsonl").write_bytes(data[:-cut])
        assert len(CacheReader(path)) == (5 if cut <= len(shard) else 4)
        stamps = {p: p.stat().st_mtime_ns for p in path.glob("shard-*.h5")}
        check_resumed(path, uninterrupted)
        assert stamps == {p: p.stat().st_mtime_ns for p in path.glob("shard-*.h5")}
        healed = (path / "manifest.jsonl").read_bytes()
        assert set(healed.splitlines()) == set(data.splitlines())


def test_a_lost_manifest_is_made_again_from_the_shards(tmp_path, uninterrupted):
    path = tmp_path / "cache"
    write_cache(path, **SIZES)
    lines = sorted((path / "manifest.jsonl").read_text().splitlines())
    (path / "manifest.jsonl").unlink()
    check_resumed(path, uninterrupted)
    assert sorted((path / "manifest.jsonl").read_text().splitlines()) == lines


def test_a_shard_without_lines_is_not_believed(tmp_path, uninterrupted):
    """Its header, a listed video's text, and a dataset have changed since."""
    path = tmp_path / "cache"
    write_cache(path, **SIZES)
    *lines, _ = (path / "manifest.jsonl").read_bytes().splitlines(keepends=True)
    shard = path / "shard-00002.h5"
    sound = shard.read_bytes()
    with h5py.File(shard) as file:
        place = file["videos/video004/tracks"].id.get_offset()
    for change in (sound.index(b"the red box moving slowly"), place):
        (path / "manifest.jsonl").write_bytes(b"".join(lines))  # torn: the shard's line is missing
        flip(shard, change)
        with open_writer(path, channels=2) as writer:
            assert len(writer.done) == 4
        assert not shard.exists() and "video004" in manifest.read(path).dropped
        shard.write_bytes(sound)
    (path / "manifest.jsonl").write_bytes(b"".join(lines[:-1]))
    flip(shard, sound.index(b"synthetic"))
    with pytest.raises(InputError, match="shard-00002.h5.* no line lists it: move it away"):
        open_writer(path, channels=2)
    shard.unlink()
    check_resumed(path, uninterrupted)
