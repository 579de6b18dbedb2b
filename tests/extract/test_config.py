"""Keys of a configuration that are a name, or a name with settings."""

from pathlib import Path
from typing import Any

import pytest

from cache_schema.host.cli import InputError
from extract.config import load_config
from extract.datasets import open_dataset

DEMO = Path(__file__).parents[2] / "extract/configs/demo.py"
LOWRANK = {"name": "lowrank-int8", "rank": "auto", "iou": 0.99, "frames": 256}


def config(tmp_path: Path, codec: Any) -> Path:
    """A file that is the demo's but for its codec."""
    path = tmp_path / "config.py"
    path.write_text(f"from extract.configs.demo import *\ncodec = {codec!r}\n")
    return path


@pytest.mark.parametrize("name", ["float32", "float16", "int8"])
@pytest.mark.parametrize("as_dict", [False, True])
def test_a_name_is_a_codec(tmp_path: Path, name: str, as_dict: bool) -> None:
    given = {"name": name} if as_dict else name
    assert load_config(config(tmp_path, given)).codec == {"name": name}


def test_settings_have_defaults(tmp_path: Path) -> None:
    assert load_config(config(tmp_path, "lowrank-int8")).codec == LOWRANK
    given = {"name": "lowrank-int8", "rank": 16}
    assert load_config(config(tmp_path, given)).codec == LOWRANK | {"rank": 16}


def test_an_option_adds_a_setting_to_a_name(tmp_path: Path) -> None:
    path = config(tmp_path, "lowrank-int8")
    assert load_config(path, {"codec.rank": 16}).codec == LOWRANK | {"rank": 16}
    assert load_config(path, {"codec.iou": 1}).codec == LOWRANK | {"iou": 1}


def test_an_option_replaces_a_codec_with_settings(tmp_path: Path) -> None:
    path = config(tmp_path, {"name": "lowrank-int8", "rank": 16})
    assert load_config(path, {"codec": "float32"}).codec == {"name": "float32"}
    assert load_config(DEMO, {"codec": "lowrank-int8"}).codec == LOWRANK
    options = {"codec.name": "lowrank-int8", "codec.frames": 8}
    assert load_config(DEMO, options).codec == LOWRANK | {"frames": 8}


def test_a_name_comes_before_its_settings_whatever_their_order(tmp_path: Path) -> None:
    for options in (
        {"codec": "lowrank-int8", "codec.rank": 15},
        {"codec.rank": 15, "codec": "lowrank-int8"},
    ):
        assert load_config(config(tmp_path, "int8"), options).codec == LOWRANK | {"rank": 15}


def test_a_dataset_may_have_settings() -> None:
    loaded = load_config(DEMO, {"dataset": "refcoco", "dataset.variants": 3})
    assert (loaded.dataset, loaded.dataset_settings) == ("refcoco", {"variants": 3})
    assert load_config(DEMO).dataset_settings == {}
    with pytest.raises(InputError, match="dataset is 5; it has to be a name"):
        load_config(DEMO, {"dataset": 5})


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("cocoref", {}, "unknown dataset 'cocoref': known are mevis"),
        (
            "folder",
            {"variants": 2},
            "dataset 'folder': unknown config key 'dataset.variants': known are none",
        ),
        ("refcoco", {"varants": 2}, "key 'dataset.varants'.*known are variants, frames, seed"),
        ("refcoco", {"variants": "two"}, "dataset.variants is 'two'; it has to be a whole number"),
    ],
)
def test_wrong_settings_of_a_dataset_are_named(
    tmp_path: Path, name: str, settings: dict, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        open_dataset(name, tmp_path, "train", settings)


@pytest.mark.parametrize(
    "codec, words",
    [
        ("zip", ["unknown codec 'zip'", "float16", "lowrank-int8"]),
        ({"name": "zip"}, ["unknown codec 'zip'"]),
        (5, ["codec is 5", "a name"]),
        (None, ["codec is None"]),
        ({}, ["codec is ", "with a name"]),
        ({"rank": 3}, ["with a name"]),
        ({"name": 3}, ["with a name"]),
        ({"name": "lowrank-int8", "ranks": 3}, ["unknown config key 'codec.ranks'", "iou"]),
        ({"name": "float16", "rank": 3}, ["'codec.rank'", "lowrank-int8", "codec=float16"]),
        ({"name": "int8", "iou": 0.9}, ["'codec.iou'", "lowrank-int8"]),
        ({"name": "float32", "frames": 9}, ["'codec.frames'", "lowrank-int8"]),
        ({"name": "lowrank-int8", "rank": "all"}, ["codec.rank is 'all'", "'auto'"]),
        ({"name": "lowrank-int8", "rank": 0}, ["codec.rank is 0", "from 1"]),
        ({"name": "lowrank-int8", "rank": 1.5}, ["codec.rank is 1.5"]),
        ({"name": "lowrank-int8", "rank": True}, ["codec.rank is True"]),
        ({"name": "lowrank-int8", "iou": 0}, ["codec.iou is 0", "to 1"]),
        ({"name": "lowrank-int8", "iou": 1.01}, ["codec.iou is 1.01"]),
        ({"name": "lowrank-int8", "iou": "high"}, ["codec.iou is 'high'"]),
        ({"name": "lowrank-int8", "iou": float("nan")}, ["codec.iou is nan"]),
        ({"name": "lowrank-int8", "frames": 0}, ["codec.frames is 0"]),
        ({"name": "lowrank-int8", "frames": 2.0}, ["codec.frames is 2.0"]),
    ],
)
def test_other_codecs_are_refused_by_name(tmp_path: Path, codec: Any, words: list[str]) -> None:
    path = tmp_path / "config.py"
    path.write_text(
        f"from extract.configs.demo import *\nnan = float('nan')\ncodec = {codec!r}\ndel nan\n"
    )
    with pytest.raises(InputError) as error:
        load_config(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clips.range": 0}, "clips.range is 0; it has to be from 1"),
        ({"clips.range": "near"}, "clips.range is 'near'; it has to be a whole number or None"),
        ({"clips.rnge": 3}, r"unknown config key 'clips.rnge' \(did you mean 'range'"),
        ({"mirror": True}, "mirror is True; it has to be a word or None"),
        ({"mirror": "wrds"}, "mirror is 'wrds'; choose one of words, pixels"),
        ({"segmenter": [0, 0], "segmenter.backbone.depth": 1}, "--cfg-options do not fit"),
    ],
)
def test_odd_values_are_refused(options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_config(DEMO, options)


def test_a_configuration_of_before_has_no_range(tmp_path: Path) -> None:
    path = tmp_path / "config.py"
    path.write_text("from extract.configs.demo import *\nclips = dict(num=2, frames=4)\n")
    assert load_config(path).clips == {"num": 2, "frames": 4, "range": None}
    assert load_config("mevis_swinl").clips == {"num": 32, "frames": 10, "range": 10}


def test_the_name_alone_does_not_replace_settings(tmp_path: Path) -> None:
    path = config(tmp_path, {"name": "lowrank-int8", "rank": 16})
    with pytest.raises(InputError, match="replace the whole codec by codec=float32"):
        load_config(path, {"codec.name": "float32"})
