"""The fitted codec of a cache in progress: kept, found again, refused for other settings."""

import h5py
import numpy as np
import pytest

from cache_schema import codec_file
from cache_schema.codecs import LOWRANK
from cache_schema.host.cli import InputError
from tests.synthetic import make_codec, open_writer, write_cache

SETTINGS = {
    "segmenter": {"name": "synthetic", "seed": 0},
    "codec": {"name": LOWRANK, "rank": "auto", "iou": 0.97, "frames": 100},
}


def assert_same(codec, expected):
    assert codec.describe() == expected.describe()
    for name in ("mean", "encoder", "decoder"):
        assert np.array_equal(getattr(codec.basis, name), getattr(expected.basis, name))


def test_what_was_saved_is_loaded(tmp_path):
    folder = tmp_path / "cache"
    assert codec_file.load(folder, SETTINGS) is None
    codec = make_codec(LOWRANK)
    codec_file.save(folder, codec, SETTINGS)
    assert_same(codec_file.load(folder, SETTINGS), codec)
    assert [p.name for p in folder.iterdir()] == ["codec.h5"]


def test_a_codec_without_a_basis(tmp_path):
    codec_file.save(tmp_path, make_codec("int8"), {"codec": {"name": "int8"}})
    codec = codec_file.load(tmp_path, {"codec": {"name": "int8"}})
    assert (codec.name, codec.basis) == ("int8", None)


def test_without_the_file_any_shard_will_do(tmp_path):
    write_cache(tmp_path, num_videos=1, codec=LOWRANK)
    (tmp_path / "shard-00000.h5").rename(tmp_path / "shard-00002.h5")
    (tmp_path / "shard-00001.h5").write_bytes(b"no shard")
    assert_same(codec_file.load(tmp_path, SETTINGS), make_codec(LOWRANK))
    other = {**SETTINGS, "segmenter": {"name": "synthetic", "seed": 1}}
    with pytest.raises(InputError, match=r"shard-00002.h5 .*segmenter\.seed: 0 != 1"):
        codec_file.load(tmp_path, other)
    with pytest.raises(InputError, match='codec.name: "lowrank-int8" != "int8"'):
        codec_file.load(tmp_path, {**SETTINGS, "codec": {"name": "int8"}})


def test_a_codec_fitted_for_other_settings_is_refused_naming_them(tmp_path):
    codec_file.save(tmp_path, make_codec(LOWRANK), SETTINGS)
    other = {**SETTINGS, "codec": {**SETTINGS["codec"], "rank": 64}}
    with pytest.raises(InputError, match=r'codec.h5 .*codec.rank: "auto" != 64 \(found != expec'):
        codec_file.load(tmp_path, other)


def test_two_that_fit_at_the_same_time(tmp_path):
    codec_file.save(tmp_path, make_codec(LOWRANK), SETTINGS)
    with pytest.raises(InputError, match="another process is writing"):
        codec_file.save(tmp_path, make_codec(LOWRANK, rank=3), SETTINGS)
    assert_same(codec_file.load(tmp_path, SETTINGS), make_codec(LOWRANK))


def test_a_damaged_file_is_one_sentence(tmp_path):
    path = tmp_path / "codec.h5"
    codec_file.save(tmp_path, make_codec(LOWRANK), SETTINGS)
    sound = path.read_bytes()
    with h5py.File(path) as file:
        place = file["codec/decoder"].id.get_offset()
    for data in (b"", sound[:-100], sound[:place] + b"x" + sound[place + 1 :]):
        path.write_bytes(data)
        with pytest.raises(InputError, match="cannot be read .*: delete it and run the same"):
            codec_file.load(tmp_path, SETTINGS)


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="cannot be written"):
        codec_file.save(tmp_path / "file" / "cache", make_codec(LOWRANK), SETTINGS)


def test_leftovers_of_a_killed_run_go(tmp_path):
    (tmp_path / ".codec.h5.123.tmp").write_bytes(b"half")
    open_writer(tmp_path).close()
    assert not list(tmp_path.glob(".codec*"))
