"""Every damaged byte is found, taken out by a repair, and brought back by the same extraction."""

import os
import random
import re
import shutil
import signal

import pytest

from cache_schema import manifest
from cache_schema.__main__ import main
from cache_schema.host import cli
from cache_schema.host.cli import InputError
from cache_schema.reader import CacheReader
from cache_schema.repair import repair
from cache_schema.verify import verify
from tests.cache_schema.helpers import contents, die, flip, in_child, listed_contents, payloads
from tests.synthetic import open_writer, write_cache

# Three videos, the first two of them in one shard.
SIZES = {
    "num_videos": 3,
    "num_frames": 2,
    "shard_bytes": 1000,
    "num_expressions": 1,
    "num_clips": 1,
    "C": 2,
    "h": 2,
    "w": 2,
    "C_text": 2,
}
SHARDS = ("shard-00000.h5", "shard-00001.h5")


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "cache"
    write_cache(path, **SIZES)
    return path


@pytest.fixture(scope="module")
def whole(sound):
    return contents(sound)


@pytest.fixture
def cache(sound, tmp_path):
    return shutil.copytree(sound, tmp_path / "cache")


def check_refilled(cache, whole):
    assert repair(cache).repaired
    if manifest.read(cache).videos:
        assert verify(cache).sound
    write_cache(cache, **SIZES)
    report = verify(cache)
    assert report.sound and not report.dropped, list(report.lines())
    assert listed_contents(cache) == whole


def test_100_of_100_flipped_bytes_are_found(cache, whole, tmp_path):
    """Half of them in the datasets, half anywhere in the file."""
    rng = random.Random(0)
    for count in range(100):
        shard = cache / rng.choice(SHARDS)
        place = rng.randrange(shard.stat().st_size)
        if count % 2:
            _, start, length = rng.choice(payloads(shard))
            place = start + rng.randrange(length)
        bit = rng.randrange(8)
        flip(shard, place, bit)
        report = verify(cache)
        assert list(report.shards) == [shard.name], (count, place)
        inside = {e.id for e in manifest.read(cache).videos.values() if e.shard == shard.name}
        assert report.damaged.keys() <= inside
        assert report.damaged or not count % 2
        if count % 9 == 0:
            check_refilled(shutil.copytree(cache, tmp_path / str(count)), whole)
        flip(shard, place, bit)
    assert verify(cache).sound


def test_20_of_20_truncations_are_found(cache, whole, tmp_path, capsys):
    rng = random.Random(1)
    for count in range(20):
        shard = cache / rng.choice(SHARDS)
        sound = shard.read_bytes()
        shard.write_bytes(sound[: rng.choice((0, len(sound) - 1, rng.randrange(len(sound))))])
        lost = {e.id for e in manifest.read(cache).videos.values() if e.shard == shard.name}
        for options in ([], ["--quick"]):
            assert cli.run(main, ["verify", str(cache), *options]) == 1
            last = capsys.readouterr().out.splitlines()[-1]
            assert all(repr(video_id) in last for video_id in lost)
        if count % 5 == 0:
            check_refilled(shutil.copytree(cache, tmp_path / str(count)), whole)
        shard.write_bytes(sound)


def test_sound_videos_of_a_damaged_shard_stay(cache, whole, capsys):
    shard = cache / SHARDS[0]
    place = next(start for name, start, _ in payloads(shard) if "video001/tracks" in name)
    flip(shard, place)
    assert cli.run(main, ["verify", str(cache)]) == 1
    out = capsys.readouterr().out.splitlines()
    assert "--repair`" in out[-2] and out[-1] == "1 of 3 videos are damaged: 'video001'"
    assert cli.run(main, ["verify", str(cache), "--repair"]) == 1
    assert "repaired: run the same extraction" in capsys.readouterr().out
    assert cli.run(main, ["verify", str(cache)]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "2 videos are sound" and out[-1].endswith("are to be extracted: 'video001'")
    assert CacheReader(cache).video_ids == ["video000", "video002"]
    with open_writer(cache, channels=2) as writer:
        assert writer.done == {"video000", "video002"}
    write_cache(cache, **SIZES)
    assert manifest.read(cache).videos["video000"].shard == SHARDS[0]
    assert manifest.read(cache).videos["video001"].shard == "shard-00002.h5"
    assert verify(cache).sound and listed_contents(cache) == whole


def test_bytes_that_no_video_uses(cache, whole):
    shard = cache / SHARDS[0]
    shard.write_bytes(shard.read_bytes() + b"rubbish")
    report = repair(cache)
    assert list(report.shards) == [SHARDS[0]] and not report.damaged
    assert list(report.lines())[-1] == "all 3 videos are sound, there is none to extract again"
    assert verify(cache).sound and listed_contents(cache) == whole


def test_a_changed_text_of_the_header_is_not_vouched_for(cache, whole):
    """Nothing but the digest of the file covers what HDF5 keeps without a checksum of its own."""
    for text in (b"synthetic", b"train", b"float16", b'"seed"'):
        shard = cache / sorted(manifest.read(cache).shards)[0]
        place = shard.read_bytes().index(text)
        flip(shard, place + 2)
        assert list(verify(cache).shards) == [shard.name]
        check_refilled(cache, whole)
        assert not shard.exists()


def test_a_wrong_line_of_a_sound_video(cache, whole):
    path = cache / "manifest.jsonl"
    text = path.read_text()
    checksum = manifest.read(cache).videos["video001"].checksum
    for change in ((checksum, "0" * 64), ('"frames": 2', '"frames": 3')):
        path.write_text(text.replace(*change))
        with pytest.raises(InputError, match=r"line [12] is damaged"):
            verify(cache)
        # Older lines have no checksum of their own.
        path.write_text(re.sub(r', "crc32": "\w+"', "", text).replace(*change))
        assert verify(cache).damaged
        check_refilled(cache, whole)


def test_a_lost_shard_and_a_lost_line(cache, whole):
    (cache / SHARDS[0]).unlink()
    assert list(verify(cache).damaged) == ["video000", "video001"]
    check_refilled(cache, whole)
    (cache / SHARDS[1]).unlink()
    write_cache(cache, **SIZES)  # finds it out by itself
    assert verify(cache).sound and listed_contents(cache) == whole


def test_a_lost_shard_that_comes_back_is_taken_in(cache, whole):
    aside = cache / "aside"
    (cache / SHARDS[0]).rename(aside)
    repair(cache)
    assert len(CacheReader(cache)) == 1
    aside.rename(cache / SHARDS[0])
    open_writer(cache, channels=2).close()
    assert len(CacheReader(cache)) == 3
    assert verify(cache).sound and listed_contents(cache) == whole


def test_nothing_left(cache, whole):
    for name in SHARDS:
        (cache / name).write_bytes(b"")
    repair(cache)
    with pytest.raises(InputError, match="no finished video"):
        verify(cache)
    write_cache(cache, **SIZES)
    assert verify(cache).sound and listed_contents(cache) == whole


def test_a_damaged_codec_file(tmp_path):
    path, codec = tmp_path / "cache", "lowrank-int8"
    write_cache(path, num_videos=1, codec=codec)
    (path / "codec.h5").write_bytes(b"half")
    assert "codec.h5 cannot be read" in verify(path).codec_file
    assert repair(path).repaired and verify(path).sound
    assert not (path / "codec.h5").exists()


def test_a_quick_repair_looks_closely_at_what_it_found(cache, whole):
    shard = cache / SHARDS[0]
    flip(shard, next(start for name, start, _ in payloads(shard) if "video000/tracks" in name))
    shard.write_bytes(shard.read_bytes() + b"x")
    assert not repair(cache, quick=True).damaged
    assert CacheReader(cache).video_ids == ["video001", "video002"]
    write_cache(cache, **SIZES)
    assert verify(cache).sound and listed_contents(cache) == whole


@pytest.mark.parametrize("name", ["fsync", "unlink", "write"])
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_repair_that_is_killed(cache, whole, monkeypatch, name, count, after):
    """One shard lost, one video of the other damaged."""
    flip(cache / SHARDS[0], payloads(cache / SHARDS[0])[0][1])
    (cache / SHARDS[1]).write_bytes(b"x")
    real, calls = getattr(os, name), [0]

    def deadly(*args, **kwargs):
        calls[0] += 1
        if calls[0] == count and not after:
            die()
        result = real(*args, **kwargs)
        if calls[0] == count:
            die()
        return result

    def killed():
        monkeypatch.setattr(os, name, deadly)
        repair(cache)

    assert in_child(killed) in (-signal.SIGKILL, 0)
    assert manifest.read(cache).videos.keys() >= {"video001"}
    try:
        write_cache(cache, **SIZES)
    except InputError as error:
        assert "--repair" in str(error)
    if not verify(cache).sound:
        check_refilled(cache, whole)
    assert listed_contents(cache) == whole


def test_a_torn_line_of_a_repair(cache, whole):
    before = (cache / "manifest.jsonl").read_bytes()
    shard = cache / SHARDS[0]
    flip(shard, payloads(shard)[0][1])
    damaged = shard.read_bytes()
    repair(cache)
    after = (cache / "manifest.jsonl").read_bytes()
    assert after.startswith(before)
    for end in range(len(before), len(after), 29):
        (cache / "manifest.jsonl").write_bytes(after[:end])
        shard.write_bytes(damaged)
        assert list(verify(cache).shards) == [SHARDS[0]]
        repair(cache)
        assert verify(cache).sound and "video000" not in manifest.read(cache).videos


def test_a_cache_that_is_being_written_is_not_repaired(cache):
    (cache / SHARDS[0]).unlink()
    with (
        open_writer(cache, channels=2),
        pytest.raises(InputError, match="another process is writing"),
    ):
        repair(cache)
