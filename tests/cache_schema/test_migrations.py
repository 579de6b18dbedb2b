"""Caches of format version 1, kept as that version's program wrote them, stay readable."""

import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from cache_schema import codec_file, migrations, spec
from cache_schema.__main__ import main
from cache_schema.codecs import get_codec
from cache_schema.host import cli
from cache_schema.host.cli import InputError
from cache_schema.reader import CacheReader
from cache_schema.repair import repair
from cache_schema.verify import verify
from cache_schema.writer import CacheWriter
from tests.cache_schema.helpers import flip, payloads

OLD = Path(__file__).parents[1] / "data/cache_v1"
FRAMES = {"float16": {"video000": 3, "video001": 2, "video002": 4}, "float32": {"video000": 2}}


@pytest.fixture(params=FRAMES)
def cache(request, tmp_path):
    return Path(shutil.copytree(OLD / request.param, tmp_path / request.param))


def test_every_array_of_a_version_1_cache_is_read(cache):
    reader = CacheReader(cache)
    assert (reader.codec.name, reader.codec.basis) == (cache.name, None)
    assert (reader.dataset, reader.split) == ("synthetic", "train")
    assert reader.fingerprint["segmenter"] == {"name": "synthetic", "seed": 0}
    assert {i: reader.video(i).num_frames for i in reader.video_ids} == FRAMES[cache.name]
    for video_id, entry in reader.entries.items():
        assert entry.codec_iou is None
        video = reader.video(video_id)
        with h5py.File(cache / entry.shard, locking=False) as file:
            raw = file[f"videos/{video_id}"]
            assert np.array_equal(video.frame_queries(), raw["frame_queries"])
            assert np.array_equal(video.mask_features()["values"], raw["mask_features/values"])
            assert np.array_equal(video.video_queries(), raw["video_queries"])
            assert np.array_equal(video.tracks(), raw["tracks"])
            assert np.array_equal(video.clip(0).video_queries, raw["clips/video_queries"][0])
            words = video.expression(video.expression_ids[1]).words
            assert np.array_equal(words, raw["expressions/1/words"])
        assert len(video.objects()) == 3


def test_a_version_1_cache_is_verified_and_described(cache, capsys):
    assert cli.run(main, ["verify", str(cache)]) == 0
    assert cli.run(main, ["verify", str(cache), "--quick"]) == 0
    capsys.readouterr()
    assert cli.run(main, ["info", str(cache), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["schema_version"], found["codec_iou"]) == (1, None)
    assert (found["videos"], found["frames"]) == (len(FRAMES[cache.name]), sum(
        FRAMES[cache.name].values()
    ))  # fmt: skip


def test_damage_in_a_version_1_cache_is_found_dataset_by_dataset(cache):
    shard = cache / "shard-00000.h5"
    sound = shard.read_bytes()
    for name, start, length in payloads(shard)[::5]:
        flip(shard, start + length // 2)
        assert list(verify(cache).damaged) == [name.split("/")[1]]
        shard.write_bytes(sound)
    shard.write_bytes(sound[:-5])
    assert "video000" in verify(cache).damaged
    shard.unlink()
    assert "video000" in verify(cache).damaged


def test_a_version_1_cache_is_not_continued(cache):
    reader = CacheReader(cache)
    before = {p.name: p.read_bytes() for p in cache.iterdir()}
    with pytest.raises(InputError, match="version 1, .*does not continue .*another folder"):
        CacheWriter(
            cache,
            fingerprint=reader.fingerprint,
            dataset=reader.dataset,
            split=reader.split,
            codec=reader.codec,
        )
    flip(cache / "shard-00000.h5", payloads(cache / "shard-00000.h5")[0][1])
    damaged = (cache / "shard-00000.h5").read_bytes()
    with pytest.raises(InputError, match="older format version, .*another folder"):
        repair(cache)
    after = {p.name: p.read_bytes() for p in cache.iterdir() if p.name != ".lock"}
    assert after == before | {"shard-00000.h5": damaged}


def test_the_codec_of_a_version_1_cache(cache):
    settings = {"segmenter": {"name": "synthetic", "seed": 0}, "codec": {"name": cache.name}}
    assert codec_file.load(cache, settings) is get_codec(cache.name)


def test_there_is_a_step_from_every_older_version():
    assert sorted(migrations.STEPS) == list(range(1, spec.FORMAT_VERSION))
    for version in (0, spec.FORMAT_VERSION + 1):
        with pytest.raises(InputError, match=f"format version {version}, this program reads 1, 2"):
            migrations.check_version(version, "a shard")
