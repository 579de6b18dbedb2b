"""A flipped byte in the small files of a cache is found, or changes nothing that is read."""

import json
import random
from pathlib import Path

import pytest

from cache_schema import codec_file, manifest
from cache_schema.__main__ import main
from cache_schema.codecs import LOWRANK
from cache_schema.host import cli
from cache_schema.host.cli import InputError
from cache_schema.records import CodecIoU
from tests.synthetic import make_codec, make_video, open_writer, write_cache, write_video

SETTINGS = {"segmenter": {"name": "synthetic", "seed": 0}, "codec": {"name": LOWRANK, "rank": 6}}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Lines of every kind: finished, failed and dropped videos, shards, and that all is there."""
    path = tmp_path_factory.mktemp("flips") / "cache"
    with open_writer(path) as writer:
        write_video(writer, make_video(0), codec_iou=CodecIoU(0.75, 0.5, 3))
        writer.fail("broken", "frame 3 is not an image")
    lost = [{"id": "lost", "dropped": "damaged"}, {"shard": "shard-00007.h5", "dropped": "gone"}]
    manifest.append(path, [*lost, {"complete": 1}])
    return path


def test_every_byte_of_a_manifest(cache: Path, tmp_path: Path) -> None:
    whole, rng = (cache / manifest.MANIFEST).read_bytes(), random.Random(0)
    read, found = manifest.read(cache), 0
    for place in range(len(whole)):
        for flip in {1 << rng.randrange(8), rng.randrange(1, 256), whole[place] ^ 10} - {0}:
            changed = bytes([whole[place] ^ flip])
            data = whole[:place] + changed + whole[place + 1 :]
            (tmp_path / manifest.MANIFEST).write_bytes(data)
            try:
                assert manifest.read(tmp_path) == read, (place, changed)
            except InputError as error:
                found += f"line {1 + whole[:place].count(10)} is" in str(error)
    assert found > 2 * len(whole)


def test_lines_without_checksums_are_read(cache: Path, tmp_path: Path) -> None:
    """As they were before there were any."""
    lines = [json.loads(line) for line in (cache / manifest.MANIFEST).read_bytes().splitlines()]
    for line in lines:
        del line["crc32"]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / manifest.MANIFEST).write_text(text)
    assert manifest.read(tmp_path) == manifest.read(cache)


def test_bytes_of_a_fitted_codec(tmp_path: Path) -> None:
    codec_file.save(tmp_path, make_codec(LOWRANK), SETTINGS)
    path = tmp_path / codec_file.CODEC_FILE
    whole, rng = path.read_bytes(), random.Random(0)
    told = codec_file.load(tmp_path, SETTINGS).describe()
    places, found = rng.sample(range(len(whole)), 400), 0
    texts = [whole.index(text) for text in (b'"dtype"', b'"synthetic"', b"lowrank")]
    for place in [*places, *(at + offset for at in texts for offset in range(9))]:
        flipped = bytes([whole[place] ^ rng.randrange(1, 256)])
        path.write_bytes(whole[:place] + flipped + whole[place + 1 :])
        try:
            assert codec_file.load(tmp_path, SETTINGS).describe() == told, place
        except InputError as error:
            found += "delete it" in str(error)
            assert "codec.h5 cannot be read" in str(error), place
    assert found > 100


def test_verify_says_what_is_damaged_and_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_cache(tmp_path, num_videos=1, codec=LOWRANK)
    codec_file.save(tmp_path, make_codec(LOWRANK), SETTINGS)
    path = tmp_path / codec_file.CODEC_FILE
    path.write_bytes(path.read_bytes().replace(b'"synthetic"', b'"sinthetic"'))
    assert cli.run(main, ["verify", str(tmp_path)]) == 1
    said = capsys.readouterr().out
    assert "codec.h5 cannot be read" in said and "to repair it, run" in said
    path = tmp_path / manifest.MANIFEST
    path.write_bytes(path.read_bytes().replace(b'"frames": 6', b'"frames": 7'))
    assert cli.run(main, ["verify", str(tmp_path)]) == 2
    assert "line 1 is damaged" in (said := capsys.readouterr().err) and "delete that line" in said
