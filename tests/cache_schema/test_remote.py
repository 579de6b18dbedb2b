"""A cache on a server is the cache: the same numbers, each byte fetched once, whatever breaks."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import fsspec
import numpy as np
import pytest

from cache_schema import address, blocks, copying, open_cache
from cache_schema.__main__ import main
from cache_schema.address import Address, place
from cache_schema.host import cli
from cache_schema.host.cli import InputError
from cache_schema.host.system import SystemTrouble
from cache_schema.reader import CacheReader
from tests.cache_schema.helpers import contents, flip, in_child, payloads
from tests.cache_schema.test_ram import assert_all_same
from tests.server import serve
from tests.synthetic import write_cache

ROOT = Path(__file__).parents[2]
BLOCK = 1 << 13


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    path = tmp_path_factory.mktemp("remote") / "cache"
    write_cache(path, num_videos=4, num_frames=[6, 3, 4, 5], C=48, shard_bytes=1 << 17)
    assert len(list(path.glob("shard-*.h5"))) > 1
    return path


@pytest.fixture(autouse=True)
def kept(tmp_path, monkeypatch):
    """The folder of the blocks, which are small here; nobody waits before he asks again."""
    monkeypatch.setenv("DMVS_BLOCKS", str(tmp_path / "blocks"))
    monkeypatch.setattr(blocks, "BLOCK", BLOCK)
    monkeypatch.setattr(address, "PAUSES", (0,) * 5)
    return tmp_path / "blocks"


def size_of(folder, pattern="**/*"):
    return sum(path.stat().st_size for path in folder.glob(pattern) if path.is_file())


def check(cache, where):
    """What is read there is what is read here."""
    assert_all_same(CacheReader(cache), where)


def test_every_byte_comes_once_whoever_asks(cache):
    with serve(cache) as server:
        reader = open_cache(server.address)
        assert reader.entries == CacheReader(cache).entries and str(reader.path) == server.address
        assert in_child(lambda: check(cache, reader)) == 0
        sent = dict(server.sent)
        assert all(0 < n <= (cache / name).stat().st_size for name, n in sent.items())
        check(cache, reader)
        check(cache, CacheReader(server.address))
        assert server.sent == sent and len(sent) == 3


def test_a_notebook_reads_too(cache):
    async def cell():
        check(cache, CacheReader(server.address))

    with serve(cache) as server:
        asyncio.run(cell())


def test_only_what_is_needed_comes(cache):
    with serve(cache) as server:
        CacheReader(server.address).video("video003").video_queries()
        assert sum(server.sent.values()) < size_of(cache) / 2


@pytest.mark.parametrize("how", [{"cut": 3}, {"cut": 3, "lengths": False}, {"ranges": False}])
def test_a_server_that_breaks_off_or_gives_no_parts(cache, how):
    with serve(cache, **how) as server:
        check(cache, CacheReader(server.address))
        for name, n in server.sent.items():
            assert n <= (cache / name).stat().st_size


def test_a_large_file_needs_a_server_that_gives_parts(cache, monkeypatch):
    monkeypatch.setenv("DMVS_MAX_BLOCKS", "2000")
    refused = pytest.raises(InputError, match="gives no parts .*no HTTP ranges.* download")
    with serve(cache, ranges=False) as server, refused:
        CacheReader(server.address)
    monkeypatch.setenv("DMVS_MAX_ARRAY", "100")
    with serve(cache) as server, pytest.raises(InputError, match="manifest.jsonl has .* 100"):
        CacheReader(server.address)


def test_blocks_are_bounded_and_the_oldest_go(cache, monkeypatch, kept):
    limit = 10 * BLOCK
    monkeypatch.setenv("DMVS_MAX_BLOCKS", str(limit))
    monkeypatch.setattr(blocks, "RUN", 2)
    with serve(cache) as server:
        check(cache, CacheReader(server.address))
        assert size_of(cache) > 2 * limit >= 2 * size_of(kept) > limit
        used, before = next(kept.glob("*/*")), server.answers
        os.utime(used, ns=(1 << 62, 1 << 62))
        check(cache, CacheReader(server.address))
        assert used.stat().st_mtime_ns == 1 << 62 and server.answers > before + 10


def test_a_folder_of_blocks_that_cannot_be_used_is_not_the_cache(cache, kept, capsys):
    kept.write_text("a file, where a folder has to be")
    with serve(cache) as server:
        assert cli.run(main, ["info", server.address]) == 2
    assert f"{kept}, which keeps what comes from servers, cannot be used" in capsys.readouterr().err


def test_a_torn_block_is_fetched_again(cache, kept):
    with serve(cache) as server:
        check(cache, CacheReader(server.address))
        for path in kept.glob("*/1"):
            path.write_bytes(path.read_bytes()[:7])
        check(cache, CacheReader(server.address))


def test_damage_is_found_and_what_is_kept_healed(cache, kept, tmp_path, capsys):
    shard = cache / "shard-00000.h5"
    at = next(at for name, at, _ in payloads(shard) if name.endswith("video000/frame_queries"))
    with serve(cache) as server:
        check(cache, CacheReader(server.address))
        number, offset = divmod(at, BLOCK)
        files = {path.parent: path for path in kept.glob(f"*/{number}")}
        (block,) = [
            path for path in files.values()
            if path.read_bytes()[offset:] == shard.read_bytes()[at : (number + 1) * BLOCK]
        ]  # fmt: skip
        flip(block, offset)
        with pytest.raises(InputError, match=r"'video000' .* is damaged .*verify http.*anew"):
            CacheReader(server.address).video("video000").frame_queries()
        assert cli.run(main, ["verify", server.address]) == 0
        check(cache, CacheReader(server.address))
    broken = shutil.copytree(cache, tmp_path / "broken")
    flip(broken / shard.name, at)
    with serve(broken) as server:
        with pytest.raises(InputError, match="'video000' .* is damaged"):
            CacheReader(server.address).video("video000").frame_queries()
        assert cli.run(main, ["verify", server.address, "--quick"]) == 0
        capsys.readouterr()
        assert cli.run(main, ["verify", server.address]) == 1
        assert "1 of 4 videos are damaged: 'video000'" in capsys.readouterr().out
        (broken / shard.name).unlink()
        assert cli.run(main, ["verify", server.address]) == 1
        assert "it is missing" in capsys.readouterr().out


def test_a_file_that_was_replaced_is_not_mixed_with_what_is_kept(cache, tmp_path):
    changed = shutil.copytree(cache, tmp_path / "changed")
    with serve(changed) as server:
        reader = CacheReader(server.address)
        reader.video("video000")
        shard = changed / "shard-00000.h5"
        shard.write_bytes(shard.read_bytes())
        check(cache, CacheReader(server.address))
        reader.close()
        with pytest.raises(InputError, match="has changed"):
            reader.video("video000").frame_queries()


def test_commands_take_an_address(cache, tmp_path, capsys):
    with serve(cache) as server:
        assert cli.run(main, ["info", server.address, "--json"]) == 0
        there = json.loads(capsys.readouterr().out)
        assert cli.run(main, ["info", str(cache), "--json"]) == 0
        here = json.loads(capsys.readouterr().out)
        assert there == {**here, "path": server.address}
        assert cli.run(main, ["copy", server.address, str(tmp_path / "copy")]) == 0
        assert contents(tmp_path / "copy") == contents(cache)
        picture = ["stats", str(cache), "--out", "s3://a/b.png"]
        repair, copy = ["verify", server.address, "--repair"], ["copy", str(cache), "s3://a/b"]
        for wrong in (repair, copy, picture):
            assert cli.run(main, wrong) == 2
            assert "can be read, but not written to" in capsys.readouterr().err
    assert not (tmp_path / "s3:").exists()


def test_any_protocol_of_fsspec(cache):
    memory = fsspec.filesystem("memory")
    memory.put(f"{cache}/", "/bucket/cache", recursive=True)
    try:
        check(cache, CacheReader("memory://bucket/cache/"))
    finally:
        memory.rm("/bucket", recursive=True)


@pytest.mark.parametrize(
    ("how", "message"),
    [({"refuse": 503}, "503"), ({"refuse": 403}, "403"), ({"cut": 1}, "cannot be read")],
)
def test_a_server_that_does_not_answer_is_no_damage(cache, capsys, how, message):
    with serve(cache, **how) as server:
        for command in ("info", "verify"):
            assert cli.run(main, [command, server.address]) == 2
            said = capsys.readouterr().err
            assert message in said and "no damage" in said and len(said.splitlines()) == 1
    assert cli.run(main, ["verify", server.address]) == 2  # which is gone now
    assert "no damage" in capsys.readouterr().err


def test_a_server_that_goes_in_the_middle_is_no_damage(cache, kept):
    with serve(cache) as server:
        reader = CacheReader(server.address)
        video = reader.video("video000")
    with pytest.raises(SystemTrouble, match="no damage"):
        video.frame_queries()
    with pytest.raises(SystemTrouble, match="no damage"):
        reader.video("video001")
    assert np.array_equal(video.frame_names, CacheReader(cache).video("video000").frame_names)


def test_what_is_no_cache(cache, tmp_path):
    with serve(tmp_path) as server:
        with pytest.raises(InputError, match="is not a cache: manifest.jsonl cannot be read"):
            CacheReader(f"{server.address}/nothing")
        shutil.copy(cache / "manifest.jsonl", tmp_path)
        with pytest.raises(InputError, match="shard-00000.h5 cannot be opened .it is missing"):
            CacheReader(server.address)
    with pytest.raises(InputError, match="Protocol not known: gopher"):
        CacheReader("gopher://somewhere")
    assert isinstance(place("a=b://c"), Path) and isinstance(place("s3://b/c"), Address)


def test_fsspec_is_named_where_it_is_missing():
    text = "import sys; sys.modules['fsspec'] = None\n" \
        "from cache_schema.__main__ import main; from cache_schema.host import cli\n" \
        "sys.exit(cli.run(main))"  # fmt: skip
    command = [sys.executable, "-c", text, "info", "https://localhost/cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "the extra 'remote'" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_copy_from_a_server_goes_on(cache, tmp_path):
    with serve(cache, cut=4) as server:
        copying.copy(server.address, tmp_path / "a", part=(1, 2))
        copied = copying.copy(server.address, tmp_path / "a")
    assert copied.there and copied.videos and contents(tmp_path / "a") == contents(cache)
