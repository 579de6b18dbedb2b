"""Parts of caches, and light ones: sound, complete, and the same whatever interrupts a copy."""

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from cache_schema import copying, manifest
from cache_schema.__main__ import main
from cache_schema.codecs import LIGHT
from cache_schema.host import cli
from cache_schema.host.cli import InputError
from cache_schema.reader import CacheReader
from cache_schema.repair import repair
from cache_schema.verify import verify
from cache_schema.writer import CacheWriter
from tests.cache_schema.helpers import contents, die, flip, in_child, payloads
from tests.synthetic import FACTS, make_segmenter, make_video, write_cache, write_video

OLD = Path(__file__).parents[1] / "data/cache_v2"
FRAMES = [6, 3, 4, 2, 5]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    path = tmp_path_factory.mktemp("copying") / "cache"
    write_cache(path, num_videos=5, num_frames=FRAMES, codec="lowrank-int8", C=8)
    return path


def test_a_copy_is_the_same_cache(cache, tmp_path, capsys):
    assert cli.run(main, ["copy", str(cache), str(tmp_path / "a")]) == 0
    assert "copied 5 videos, 20 frames" in capsys.readouterr().out
    assert contents(tmp_path / "a") == contents(cache)
    old, new = CacheReader(cache), CacheReader(tmp_path / "a")
    assert (new.fingerprint, new.facts) == (old.fingerprint, old.facts)
    assert new.segmenter.describe() == old.segmenter.describe()
    assert verify(tmp_path / "a").sound


def test_parts_hold_every_video_once_and_make_the_whole_again(cache, tmp_path, capsys):
    frames = []
    for number in (1, 2, 3):
        part = tmp_path / str(number)
        assert cli.run(main, ["copy", str(cache), str(part), "--split", str(number), "3"]) == 0
        frames.append(sum(entry.frames for entry in CacheReader(part).entries.values()))
        assert verify(part).sound
        copying.copy(part, tmp_path / "whole")
    assert sum(frames) == sum(FRAMES) and max(frames) - min(frames) <= max(FRAMES)
    assert contents(tmp_path / "whole") == contents(cache)
    with pytest.raises(InputError, match="no part 4 of 3: give one from 1 on"):
        copying.copy(cache, tmp_path / "4", part=(4, 3))
    with pytest.raises(InputError, match="part 6 of 6 is empty"):
        copying.copy(cache, tmp_path / "6", part=(6, 6))


def test_a_light_copy_lacks_the_mask_features_and_nothing_else(cache, tmp_path, capsys):
    light = tmp_path / "light"
    assert cli.run(main, ["copy", str(cache), str(light), "--without", "mask_features"]) == 0
    full, reader = CacheReader(cache), CacheReader(light)
    assert reader.light and not full.light and reader.codec.name == LIGHT.name
    whole = contents(cache)
    for video_id, found in contents(light).items():
        expected = {n: v for n, v in whole[video_id].items() if "mask_features" not in n}
        assert found.keys() == expected.keys()
        same = {n for n in found if found[n] == expected[n]}
        assert found.keys() - same <= {"checksums"}  # which has a column less
    video = reader.video("video000")
    assert np.array_equal(video.frame_queries(), full.video("video000").frame_queries())
    assert video.mask_extents() == {}
    with pytest.raises(InputError, match="light, it holds no mask features .*or a full cache"):
        video.mask_features([0])
    assert cli.run(main, ["verify", str(light)]) == cli.run(main, ["info", str(light)]) == 0
    assert cli.run(main, ["stats", str(light)]) == 0
    assert "5 videos are sound" in capsys.readouterr().out


def test_a_copy_of_a_light_cache_is_light(cache, tmp_path):
    copying.copy(cache, tmp_path / "light", light=True)
    copying.copy(tmp_path / "light", tmp_path / "again")
    assert contents(tmp_path / "again") == contents(tmp_path / "light")


def test_a_whole_copy_of_a_complete_cache_is_complete(cache, tmp_path):
    whole = shutil.copytree(cache, tmp_path / "whole")
    manifest.append(whole, [{"complete": 5}])
    for source, complete in ((whole, True), (cache, False)):
        target = tmp_path / f"of-{source.name}"
        copying.copy(source, target, videos=["video001"])
        assert not manifest.read(target).complete
        for _ in range(2):
            copying.copy(source, target)
            assert manifest.read(target).complete is complete


def test_a_light_cache_is_written_verified_and_repaired(tmp_path):
    def write():
        with CacheWriter(
            tmp_path,
            fingerprint={},
            dataset="synthetic",
            split="train",
            codec=LIGHT,
            facts=FACTS,
            segmenter=make_segmenter(),
            shard_bytes=1,
        ) as writer:
            for index in range(3):
                video = make_video(index)
                if video.id not in writer.done:
                    write_video(writer, video)

    write()
    whole = contents(tmp_path)
    assert verify(tmp_path).sound
    shard = tmp_path / "shard-00001.h5"
    flip(shard, next(at for name, at, _ in payloads(shard) if name.endswith("frame_queries")))
    with pytest.raises(InputError, match="'video001' .* is damaged .frame_queries, row 0"):
        CacheReader(tmp_path).video("video001").frame_queries()
    assert list(repair(tmp_path).damaged) == ["video001"]
    write()
    assert verify(tmp_path).sound and contents(tmp_path) == whole


def test_only_the_videos_of_a_list(cache, tmp_path):
    (tmp_path / "ids").write_text("\ufeffvideo003\n\nvideo001\n", "utf-8")
    copy = ["copy", str(cache), str(tmp_path / "a"), "--videos", str(tmp_path / "ids")]
    assert cli.run(main, copy) == 0
    assert CacheReader(tmp_path / "a").video_ids == ["video001", "video003"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read"),
        (" \n", "names no video"),
        ("video009\n", "has no video 'video009'"),
    ],
)
def test_a_list_that_does_not_fit_is_refused(cache, tmp_path, capsys, text, message):
    if text is not None:
        (tmp_path / "ids").write_text(text)
    copy = ["copy", str(cache), str(tmp_path / "a"), "--videos", str(tmp_path / "ids")]
    assert cli.run(main, copy) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "a").exists()


def test_a_killed_copy_goes_on_to_the_same_bytes(cache, tmp_path, monkeypatch):
    target = tmp_path / "a"
    real = copying._copy

    def dies(reader, video, *rest):
        real(reader, video, *rest)
        if video.id == "video002":
            die()

    monkeypatch.setattr(copying, "_copy", dies)
    assert in_child(lambda: copying.copy(cache, target, shard_bytes=1)) < 0
    monkeypatch.setattr(copying, "_copy", real)
    copied = copying.copy(cache, target, shard_bytes=1)
    # The shard that was being sealed may have been lost, the one before it may not.
    assert copied.there in (1, 2) and copied.there + copied.videos == 5
    assert contents(target) == contents(cache) and verify(target).sound


def test_another_cache_is_not_copied_into(cache, tmp_path):
    with pytest.raises(InputError, match="is the cache that is to be copied"):
        copying.copy(cache, cache)
    copying.copy(cache, tmp_path / "a", videos=["video001"])
    with pytest.raises(InputError, match=r"codec.*lowrank-int8.* != .*none"):
        copying.copy(cache, tmp_path / "a", light=True)
    write_cache(tmp_path / "b", num_videos=1, codec="lowrank-int8", C=8, seed=1)
    with pytest.raises(InputError, match="segmenter.seed: 1 != 0"):
        copying.copy(cache, tmp_path / "b")
    assert manifest.read(tmp_path / "b").videos.keys() == {"video000"}


def test_damage_is_not_copied(cache, tmp_path):
    broken = shutil.copytree(cache, tmp_path / "broken")
    shard = broken / "shard-00000.h5"
    place = next(at for n, at, _ in payloads(shard) if n.endswith("video001/mask_features/values"))
    flip(shard, place)
    with pytest.raises(InputError, match="'video001' .* is damaged .*verify .*--repair"):
        copying.copy(broken, tmp_path / "a")
    assert verify(tmp_path / "a").sound


@pytest.mark.parametrize("light", [False, True])
def test_a_copy_of_an_older_version_is_of_the_newest(tmp_path, light):
    copying.copy(OLD / "lowrank-int8", tmp_path / "a", light=light)
    old, new = CacheReader(OLD / "lowrank-int8"), CacheReader(tmp_path / "a")
    assert (old.version, new.version, new.light) == (2, 3, light)
    assert new.facts == old.facts and new.video("video000").overlaps() is None
    assert verify(tmp_path / "a").sound
    with h5py.File(tmp_path / "a/shard-00000.h5", locking=False) as file:
        assert ("mask_features" in file["videos/video000"]) != light
