"""Killed at any moment, the same command finishes what is missing: real SIGKILL."""

import os
import random
import signal
import time

import pytest

from cache_schema import manifest
from cache_schema.reader import CacheReader
from cache_schema.verify import verify
from tests.cache_schema.helpers import contents, die, in_child
from tests.synthetic import write_cache

# Two videos a shard, three shards.
SIZES = {
    "num_videos": 5,
    "shard_bytes": 4000,
    "num_expressions": 1,
    "num_clips": 1,
    "C": 2,
    "num_frames": 4,
}


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


@pytest.mark.parametrize("seed", range(4))
def test_killed_at_random_moments_again_and_again(tmp_path, uninterrupted, seed):
    rng = random.Random(seed)
    path = tmp_path / "cache"
    for _ in range(3):
        child = os.fork()
        if child == 0:
            write_cache(path, **SIZES)
            os._exit(0)
        time.sleep(rng.uniform(0.001, 0.12))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        if (path / "manifest.jsonl").exists():
            # Everything that the manifest lists is really there.
            assert not (manifest.read(path).videos and verify(path).damaged)
    check_resumed(path, uninterrupted)


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
