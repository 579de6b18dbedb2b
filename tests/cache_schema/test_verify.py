"""The command line: what verify finds, what info prints, and the exit statuses."""

import hashlib
import json
import shutil
import subprocess
import zlib

import h5py
import numpy as np
import pytest

from cache_schema import cli
from cache_schema.__main__ import main
from cache_schema.verify import verify
from tests.cache_schema.helpers import contents
from tests.synthetic import write_cache

SIZES = {"num_videos": 2, "num_expressions": 1, "num_clips": 1, "C": 4, "num_frames": 3}


@pytest.fixture
def cache(tmp_path):
    write_cache(tmp_path / "cache", shard_bytes=1, **SIZES)
    return tmp_path / "cache"


def flip(path, offset, bit=0):
    data = bytearray(path.read_bytes())
    data[offset] ^= 1 << bit
    path.write_bytes(data)


def payloads(path):
    """Name, offset and length of every dataset's bytes in a shard; chunked ones chunk by chunk."""
    found = []

    def visit(name, node):
        if isinstance(node, h5py.Dataset) and node.chunks:
            for i in range(node.id.get_num_chunks()):
                chunk = node.id.get_chunk_info(i)
                found.append((name, chunk.byte_offset, chunk.size))
        elif isinstance(node, h5py.Dataset):
            found.append((name, node.id.get_offset(), node.nbytes))

    with h5py.File(path) as file:
        file.visititems(visit)
    return found


def test_a_flipped_byte_in_any_dataset_is_found(cache):
    rng = np.random.default_rng(0)
    shard = cache / "shard-00001.h5"
    places = payloads(shard)
    assert len({name for name, _, _ in places}) == 18
    sound = shard.read_bytes()
    for name, start, length in places:
        flip(shard, start + int(rng.integers(length)), int(rng.integers(8)))
        report = verify(cache)
        assert list(report.damaged) == ["video001"], name
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


def test_flips_and_cuts_anywhere_never_crash_and_cuts_are_found(cache, capsys):
    rng = np.random.default_rng(1)
    shard = cache / "shard-00000.h5"
    sound = shard.read_bytes()
    for _ in range(20):
        flip(shard, int(rng.integers(len(sound))), int(rng.integers(8)))
        assert cli.run(main, ["verify", str(cache)]) in (0, 1)
        shard.write_bytes(sound)
    for cut in rng.integers(1, len(sound), 10):
        shard.write_bytes(sound[:-cut])
        assert cli.run(main, ["verify", str(cache)]) == 1
        assert "'video000'" in capsys.readouterr().out


def test_missing_and_unlisted_shards(cache, capsys):
    lines = (cache / "manifest.jsonl").read_text().splitlines(keepends=True)
    (cache / "manifest.jsonl").write_text(lines[0])
    assert cli.run(main, ["verify", str(cache)]) == 1
    assert "'video001' has no line in manifest.jsonl" in capsys.readouterr().out
    (cache / "manifest.jsonl").write_text("".join(lines))
    (cache / "shard-00000.h5").unlink()
    assert cli.run(main, ["verify", str(cache)]) == 1
    out = capsys.readouterr().out
    assert "it is missing" in out and "1 of 2 videos are damaged: 'video000'" in out


def test_damaged_videos_come_back_as_verify_says(cache):
    before = contents(cache)
    shard = cache / "shard-00000.h5"
    flip(shard, payloads(shard)[0][1])
    assert list(verify(cache).damaged) == ["video000"]
    lines = (cache / "manifest.jsonl").read_text().splitlines(keepends=True)
    (cache / "manifest.jsonl").write_text("".join(x for x in lines if "shard-00000" not in x))
    write_cache(cache, shard_bytes=1, **SIZES)
    assert contents(cache) == before and verify(cache).sound


def test_statuses_and_sentences(cache, tmp_path, capsys):
    assert cli.run(main, ["verify", str(cache)]) == 0
    assert capsys.readouterr().out == "2 videos are sound\n"
    for command in ("verify", "info"):
        assert cli.run(main, [command, str(tmp_path / "nowhere")]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1
    for shard in cache.glob("*.h5"):
        with h5py.File(shard, "r+") as file:
            file.attrs["schema_version"] = 9
    assert cli.run(main, ["verify", str(cache)]) == 2
    assert "format version 9" in capsys.readouterr().err


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
