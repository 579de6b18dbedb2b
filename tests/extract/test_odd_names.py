"""Names and texts that no cache can store: their video fails alone, the others are extracted."""

import json
import os
import shutil
from pathlib import Path

import pytest
from stage_one import small_config, small_data

from cache_schema import manifest
from cache_schema.reader import CacheReader
from extract.pipeline.run import extract
from extract.stage import RANDOM

BAD = "a \ud800 b"  # JSON may say it; no UTF-8 can


def run(data: Path, out: Path, queue: int):
    how = {"split": "train", "weights": RANDOM, "device": "cpu", "queue": queue}
    return extract(small_config(), data_root=data, out=out, **how)


@pytest.mark.parametrize("place", ["sentence", "tag", "expression id", "frame", "video id"])
@pytest.mark.parametrize("queue", [0, 1])
def test_a_bad_text_fails_alone(tmp_path: Path, place: str, queue: int) -> None:
    data = small_data(tmp_path / "data", videos=2)
    path = data / "train" / "meta_expressions.json"
    meta = json.loads(path.read_text())
    videos = meta["videos"]
    first = next(iter(videos))
    entry = videos[first]
    number, said = next(iter(entry["expressions"].items()))
    if place == "sentence":
        said["exp"] = BAD
    elif place == "tag":
        said["tag"] = BAD
    elif place == "expression id":
        entry["expressions"][BAD] = entry["expressions"].pop(number)
    elif place == "frame":
        entry["frames"][-1] = f"z{BAD}"
    else:
        meta["videos"] = {BAD: videos.pop(first), **videos}
    path.write_text(json.dumps(meta))
    summary = run(data, tmp_path / "cache", queue)
    bad = BAD if place == "video id" else first
    assert list(summary.failures) == [bad] and "lone surrogate" in summary.failures[bad]
    assert summary.videos == 1 and len(CacheReader(tmp_path / "cache")) == 1
    assert list(manifest.read(tmp_path / "cache").failures) == [bad]


def test_a_folder_whose_name_is_not_utf_8_fails_alone(tmp_path: Path) -> None:
    data = small_data(tmp_path / "data", videos=1)
    images = next((data / "train" / "JPEGImages").iterdir())
    for name in (b"aaa", b"caf\xe9", b"zzz"):
        target = os.path.join(os.fsencode(tmp_path / "videos"), name)
        shutil.copytree(os.fsencode(images), target)
    how = {"split": None, "weights": RANDOM, "device": "cpu"}
    config = small_config(dataset="folder")
    summary = extract(config, data_root=tmp_path / "videos", out=tmp_path / "cache", **how)
    assert summary.videos == 2 and list(summary.failures) == ["caf\udce9"]
