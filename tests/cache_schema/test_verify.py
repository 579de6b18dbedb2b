"""The command line: what verify finds, what info prints, and the exit statuses."""

import errno
import hashlib
import json
import shutil
import subprocess
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest

from cache_schema.__main__ import main
from cache_schema.host import cli
from cache_schema.host.system import SystemTrouble
from cache_schema.records import CodecIoU
from cache_schema.repair import repair
from cache_schema.verify import verify
from tests.cache_schema.helpers import flip, payloads, seal_again
from tests.synthetic import make_video, open_writer, write_cache, write_video

SIZES = {"num_videos": 2, "num_expressions": 1, "num_clips": 1, "C": 4, "num_frames": 3}


@pytest.fixture
def cache(tmp_path):
    write_cache(tmp_path / "cache", shard_bytes=1, **SIZES)
    return tmp_path / "cache"


def test_a_flipped_byte_in_any_dataset_is_found(cache):
    rng = np.random.default_rng(0)
    shard = cache / "shard-00001.h5"
    places = payloads(shard)
    assert len({name for name, _, _ in places}) == 32
    sound = shard.read_bytes()
    for name, start, length in places:
        flip(shard, start + int(rng.integers(length)), int(rng.integers(8)))
        report = verify(cache)
        assert list(report.damaged) == ["video001"], name
        if name.startswith("videos/"):
            assert any(name.removeprefix("videos/video001/") in line for line in report.lines())
        shard.write_bytes(sound)
    assert verify(cache).sound


def test_attributes_and_extra_names_are_part_of_the_checksum(cache):
    with h5py.File(cache / "shard-00000.h5", "r+") as file:
        file["videos/video000/expressions/0"].attrs["text"] = "another sentence"
    with h5py.File(cache / "shard-00001.h5", "r+") as file:
        extra = file.create_dataset("videos/video001/extra", data=np.zeros(3, np.int32))
        extra.attrs["crc32"] = 0
    assert list(verify(cache).damaged) == ["video000", "video001"]


def test_missing_and_unlisted_shards(cache, capsys):
    lines = (cache / "manifest.jsonl").read_text().splitlines(keepends=True)
    (cache / "manifest.jsonl").write_text("".join(lines[:2]))
    assert cli.run(main, ["verify", str(cache)]) == 1
    assert "shard-00001.h5 has no line in manifest.jsonl" in capsys.readouterr().out
    (cache / "manifest.jsonl").write_text("".join(lines[:2] + lines[3:]))
    assert cli.run(main, ["verify", str(cache)]) == 1
    assert "'video001' has no line in manifest.jsonl" in capsys.readouterr().out
    (cache / "manifest.jsonl").write_text("".join(lines))
    (cache / "shard-00000.h5").unlink()
    for options in ([], ["--quick"]):
        assert cli.run(main, ["verify", str(cache), *options]) == 1
        out = capsys.readouterr().out
        assert "it is missing" in out
        assert out.splitlines()[-1] == "1 of 2 videos are damaged: 'video000'"


def test_a_shard_without_its_line_is_found_and_the_same_extraction_adds_it(cache):
    before = (cache / "manifest.jsonl").read_bytes()
    *videos, last = before.splitlines(keepends=True)
    (cache / "manifest.jsonl").write_bytes(b"".join(videos))
    report = verify(cache)
    assert not report.damaged and "shard-00001.h5 has no line" in report.other[0]
    write_cache(cache, shard_bytes=1, **SIZES)
    assert (cache / "manifest.jsonl").read_bytes() == before and verify(cache).sound


def test_statuses_and_sentences(cache, tmp_path, capsys):
    for options in ([], ["--quick"], ["--repair"], ["--quick", "--repair"]):
        assert cli.run(main, ["verify", str(cache), *options]) == 0
        assert capsys.readouterr().out == "2 videos are sound\n"
        assert cli.run(main, ["verify", str(tmp_path / "nowhere"), *options]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1
    assert not (tmp_path / "nowhere").exists()
    assert cli.run(main, ["info", str(tmp_path / "nowhere")]) == 2
    for shard in cache.glob("*.h5"):
        with h5py.File(shard, "r+") as file:
            file.attrs["schema_version"] = 9
        seal_again(shard)
    for command in (["info"], ["verify"], ["verify", "--quick"], ["verify", "--repair"]):
        assert cli.run(main, [*command, str(cache)]) == 2
        assert "format version 9" in capsys.readouterr().err
    (cache / "shard-00001.h5").write_bytes(b"damaged")
    assert cli.run(main, ["verify", str(cache), "--repair"]) == 2
    assert "format version 9" in capsys.readouterr().err
    assert len(list(cache.glob("*.h5"))) == 2


def test_quick_finds_what_does_not_need_the_data(cache):
    shard = cache / "shard-00000.h5"
    sound = shard.read_bytes()
    flip(shard, payloads(shard)[0][1])
    assert verify(cache, quick=True).sound and not verify(cache).sound
    shard.write_bytes(sound + b"x")
    assert list(verify(cache, quick=True).shards) == ["shard-00000.h5"]
    shard.write_bytes(sound[:-1])
    assert list(verify(cache, quick=True).damaged) == ["video000"]
    shard.write_bytes(sound)
    # A change that leaves the size as it was, as no disk makes it.
    with h5py.File(shard, "r+") as file:
        file["videos/video000"].attrs.modify("stride", 2)
    shard.write_bytes(shard.read_bytes()[: len(sound)])
    assert list(verify(cache, quick=True).damaged) == ["video000"]
    # A header that cannot be read is damage, since the digest says so.
    flip(cache / "shard-00001.h5", 60)
    assert list(verify(cache, quick=True).damaged) == ["video000", "video001"]


def test_a_shard_that_may_not_be_read_is_not_damaged(cache, monkeypatch):
    real = Path.open

    def refuse(path, *args, **kwargs):
        if path.suffix == ".h5":
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(path, *args, **kwargs)

    monkeypatch.setattr(Path, "open", refuse)
    for check in (verify, repair):
        with pytest.raises(SystemTrouble, match="shard-00000.h5 cannot be read: Permission denied"):
            check(cache)
    monkeypatch.undo()
    assert verify(cache).sound


def test_info(cache, capsys):
    assert cli.run(main, ["info", str(cache), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {k: found[k] for k in ("videos", "frames", "expressions", "objects", "clips")} == {
        "videos": 2,
        "frames": 6,
        "expressions": 2,
        "objects": 6,
        "clips": 2,
    }
    assert found["bytes_by_kind"]["mask_features"] == 6 * 4 * 8 * 12 * 2
    assert found["bytes"] == sum(found["bytes_by_kind"].values())
    lines = (cache / "manifest.jsonl").read_text().splitlines()
    assert found["bytes"] == sum(json.loads(line).get("bytes", 0) for line in lines)
    assert found["fingerprint_fields"]["segmenter"]["name"] == "synthetic"
    assert cli.run(main, ["info", str(cache)]) == 0
    text = capsys.readouterr().out
    for word in ("float16", "synthetic", "mask_features", "segmenter.seed", found["fingerprint"]):
        assert word in text


def test_info_sums_up_what_the_codec_costs(tmp_path, capsys):
    with open_writer(tmp_path, codec="lowrank-int8") as writer:
        write_video(writer, make_video(0), codec_iou=CodecIoU(0.99, 0.9, 30))
        write_video(writer, make_video(1))
        write_video(writer, make_video(2), codec_iou=CodecIoU(0.95, 0.8, 10))
    assert cli.run(main, ["info", str(tmp_path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["codec_rank"] == 6
    cost = found["codec_iou"]
    assert cost["mean"] == pytest.approx(0.98)
    assert (cost["worst"], cost["masks"], cost["videos"]) == (0.8, 40, 2)
    assert found["file_bytes"] == (tmp_path / "shard-00000.h5").stat().st_size
    assert cli.run(main, ["info", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "lowrank-int8, rank 6" in text
    assert "mean 0.9800, worst 0.8000 (40 masks of 2 videos, coded against exact)" in text


@pytest.mark.skipif(not shutil.which("h5dump"), reason="needs hdf5-tools")
def test_plain_hdf5_tools_read_a_shard(cache):
    shard = cache / "shard-00000.h5"
    listing = subprocess.run(["h5ls", "-r", shard], capture_output=True, text=True, check=True)
    assert "/videos/video000/mask_features/values Dataset {3, 4, 8, 12}" in listing.stdout
    dump = subprocess.run(["h5dump", shard], capture_output=True, text=True, check=True)
    assert 'ATTRIBUTE "schema_version"' in dump.stdout and not dump.stderr


def test_the_checksum_is_what_the_format_page_defines(cache):
    line = json.loads((cache / "manifest.jsonl").read_text().splitlines()[0])
    with h5py.File(cache / line["shard"]) as file:
        video = file["videos/video000"]
        nodes = [("", video)]
        video.visititems(lambda path, node: nodes.append((path, node)))
        text = ""
        for path, node in nodes:
            is_data = isinstance(node, h5py.Dataset)
            kind = [node.dtype.str, list(node.shape)] if is_data else None
            attributes = {k: v if isinstance(v, str) else int(v) for k, v in node.attrs.items()}
            text += json.dumps([path, kind, attributes], sort_keys=True) + "\n"
            if is_data:
                assert attributes["crc32"] == zlib.crc32(node[()].tobytes())
    assert line["checksum"] == hashlib.sha256(text.encode()).hexdigest()
