"""Caches of older format versions, kept as their programs wrote them, stay readable."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pytest

from cache_schema import codec_file, migrations, spec
from cache_schema.__main__ import main
from cache_schema.codecs import LOWRANK
from cache_schema.host import cli
from cache_schema.host.cli import InputError
from cache_schema.reader import CacheReader
from cache_schema.records import Facts, SegmenterFacts
from cache_schema.repair import repair
from cache_schema.verify import verify
from cache_schema.writer import CacheWriter
from tests.cache_schema.helpers import flip, payloads

DATA = Path(__file__).parents[1] / "data"
FRAMES = {
    (1, "float16"): [3, 2, 4],
    (1, "float32"): [2],
    (2, "float16"): [3, 2],
    (2, "lowrank-int8"): [2],
}


@dataclass
class Old:
    path: Path
    version: int
    codec: str
    frames: list[int]


@pytest.fixture(params=FRAMES, ids=lambda key: "-".join(map(str, key)))
def old(request, tmp_path):
    version, codec = request.param
    path = shutil.copytree(DATA / f"cache_v{version}" / codec, tmp_path / codec)
    return Old(Path(path), version, codec, FRAMES[request.param])


def test_every_array_is_read(old):
    reader = CacheReader(old.path)
    assert (reader.version, reader.codec.name, reader.light) == (old.version, old.codec, False)
    assert (reader.codec.basis is None) == (old.codec != LOWRANK)
    assert (reader.dataset, reader.split) == ("synthetic", "train")
    assert reader.fingerprint["segmenter"] == {"name": "synthetic", "seed": 0}
    assert [reader.video(i).num_frames for i in reader.video_ids] == old.frames
    measured = [entry.id for entry in reader.entries.values() if entry.codec_iou]
    assert measured == ["video000"] * (old.version - 1)
    for video_id, entry in reader.entries.items():
        video = reader.video(video_id)
        with h5py.File(old.path / entry.shard, locking=False) as file:
            raw = file[f"videos/{video_id}"]
            assert np.array_equal(video.frame_queries(), raw["frame_queries"])
            features = video.mask_features()
            assert features.keys() == raw["mask_features"].keys()
            for name, array in features.items():
                assert np.array_equal(array, raw[f"mask_features/{name}"])
            assert np.array_equal(video.video_queries(), raw["video_queries"])
            assert np.array_equal(video.tracks(), raw["tracks"])
            assert np.array_equal(video.clip(0).video_queries, raw["clips/video_queries"][0])
            words = video.expression(video.expression_ids[1]).words
            assert np.array_equal(words, raw["expressions/1/words"])
        assert len(video.objects()) == 3


def test_what_an_older_version_does_not_say_has_a_default(old):
    reader = CacheReader(old.path)
    assert reader.facts == Facts(one_object=None, protocol="expressions", has_text=True)
    assert reader.segmenter.describe() == SegmenterFacts("vita", identity=False).describe()
    for video in map(reader.video, reader.video_ids):
        assert video.frame_times().tolist() == list(range(video.num_frames))
        assert (video.overlaps(), video.segmenter_masks()) == (None, {})
        assert (video.clip(0).mask_embeds, video.clip(0).overlaps) == (None, None)


@pytest.mark.parametrize(
    ("name", "facts"),
    [
        ("mevis", Facts(False, "expressions", True)),
        ("ref_youtube_vos", Facts(True, "expressions", True)),
        ("ref_davis", Facts(True, "davis", True)),
        ("folder", Facts(False, "expressions", False)),
    ],
)
def test_facts_of_the_data_sets_of_old_caches(name, facts):
    header = {"dataset": name, "split": "valid", "codec": "int8"}
    assert migrations.upgrade(header, 1)["facts"] == facts


def test_an_older_cache_is_verified_and_described(old, capsys):
    assert cli.run(main, ["verify", str(old.path)]) == 0
    assert cli.run(main, ["verify", str(old.path), "--quick"]) == 0
    capsys.readouterr()
    assert cli.run(main, ["info", str(old.path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["schema_version"] == old.version
    assert (found["videos"], found["frames"]) == (len(old.frames), sum(old.frames))


def test_damage_is_found_dataset_by_dataset(old):
    shard = old.path / "shard-00000.h5"
    sound = shard.read_bytes()
    places = [place for place in payloads(shard) if place[0].startswith("videos/")]
    for name, start, length in places[::5]:
        flip(shard, start + length // 2)
        assert list(verify(old.path).damaged) == [name.split("/")[1]]
        shard.write_bytes(sound)
    shard.write_bytes(sound[:-5])
    assert "video000" in verify(old.path).damaged
    shard.unlink()
    assert "video000" in verify(old.path).damaged


def test_an_older_cache_is_not_continued(old):
    reader = CacheReader(old.path)
    before = {p.name: p.read_bytes() for p in old.path.iterdir()}
    with pytest.raises(InputError, match=f"version {old.version}, .*does not continue .*another"):
        CacheWriter(
            old.path,
            fingerprint=reader.fingerprint,
            dataset=reader.dataset,
            split=reader.split,
            codec=reader.codec,
            facts=reader.facts,
            segmenter=reader.segmenter,
        )
    shard = old.path / "shard-00000.h5"
    flip(shard, payloads(shard)[0][1])
    damaged = shard.read_bytes()
    with pytest.raises(InputError, match="older format version, .*another folder"):
        repair(old.path)
    after = {p.name: p.read_bytes() for p in old.path.iterdir() if p.name != ".lock"}
    assert after == before | {"shard-00000.h5": damaged}


def test_the_codec_of_an_older_cache(old):
    settings = {"segmenter": {"name": "synthetic", "seed": 0}, "codec": {"name": old.codec}}
    codec = codec_file.load(old.path, settings)
    assert codec.describe() == CacheReader(old.path).codec.describe()


def test_there_is_a_step_from_every_older_version():
    assert sorted(migrations.STEPS) == list(range(1, spec.FORMAT_VERSION))
    for version in (0, spec.FORMAT_VERSION + 1):
        with pytest.raises(InputError, match=f"format version {version}, this program reads 1, 2"):
            migrations.check_version(version, "a shard")
