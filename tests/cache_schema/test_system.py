"""Errors of the system are no damage: nothing is dropped for them, whatever call meets them."""

import errno
import os
import resource
import shutil
import signal
import sys
from pathlib import Path

import h5py
import pytest

from cache_schema import checksums, codec_file
from cache_schema.__main__ import main
from cache_schema.host import cli, system
from cache_schema.verify import verify
from tests.cache_schema.helpers import flip, in_child, payloads
from tests.synthetic import open_writer, write_cache

SHARD = "shard-00000.h5"
QUOTED = "file read failed: time = now, errno = 5, error message = 'Input/output error', offset = 8"
OF_FILES = [
    *(OSError(n, os.strerror(n)) for n in (errno.EMFILE, errno.ESTALE, errno.EIO, errno.ENOMEM)),
    MemoryError(),
]
OF_HDF5 = [
    *OF_FILES,
    RuntimeError(f"Object visitation failed ({QUOTED})"),
    OSError("Can't read data (memory allocation failed for chunk)"),
    SystemError("<built-in function open> returned a result with an exception set"),
]
# Everything that verify, repair and the healing of a writer ask of a shard goes through these.
CALLS = {
    "file": (Path, "open", OF_FILES),
    "HDF5 file": (h5py, "File", OF_HDF5),
    "HDF5 object": (h5py.h5o, "open", [*OF_HDF5, KeyError(f"Unable to open object ({QUOTED})")]),
    "HDF5 attribute": (h5py.h5a, "open", [*OF_HDF5, KeyError(f"Can't open attribute ({QUOTED})")]),
    "HDF5 visit": (h5py.h5o, "visit", OF_HDF5),
    "data": (checksums, "crc32", OF_HDF5),
}


@pytest.fixture(scope="module")
def caches(tmp_path_factory):
    """A sound cache, one with a flipped byte in one of two videos, one whose shard has no line."""
    folder = tmp_path_factory.mktemp("caches")
    for name in ("sound", "flipped", "unlisted"):
        write_cache(folder / name, num_videos=2, num_frames=2, C=2, h=2, w=2, codec="lowrank-int8")
    shard = folder / "flipped" / SHARD
    flip(shard, next(at for name, at, _ in payloads(shard) if "video000/tracks" in name))
    manifest = folder / "unlisted" / "manifest.jsonl"
    manifest.write_text("")
    return folder


def state(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir() if not p.name.startswith(".lock")}


def fails_at(real, error, count):
    """``real``, but its call number ``count`` raises."""
    calls = [0]

    def call(*args, **kwargs):
        calls[0] += 1
        if calls[0] == count:
            raise error
        return real(*args, **kwargs)

    return call


@pytest.mark.parametrize(
    ("name", "call"),
    [
        (name, call)
        for name in ("sound", "flipped", "unlisted")
        for call in CALLS
        if name != "sound" or call not in ("HDF5 visit", "data")  # its data are not looked at
    ],
)
def test_nothing_is_changed_for_an_error_of_the_system(caches, name, call, monkeypatch, capsys):
    before, told = state(caches / name), 0
    owner, attribute, errors = CALLS[call]
    real = getattr(owner, attribute)
    run = heal if name == "unlisted" else main
    for error in errors:
        for count in (1, 2, 5):
            monkeypatch.setattr(owner, attribute, fails_at(real, error, count))
            status = cli.run(run, ["verify", str(caches / name), "--repair"])
            monkeypatch.setattr(owner, attribute, real)
            said = capsys.readouterr().err
            if status == 2:  # the call was made that often
                assert said.startswith("error: ") and said.count("\n") == 1
                assert state(caches / name) == before, (error, count)
                told += 1
            else:
                assert count > 1
                restore(caches / name, before)
    assert told


def heal(arguments):
    """Open the cache for writing, which takes in shards that no line lists."""
    open_writer(Path(arguments[1]), codec="lowrank-int8", channels=2).close()


def restore(folder, before):
    for name, data in before.items():
        (folder / name).write_bytes(data)


@pytest.mark.parametrize("error", OF_HDF5, ids=repr)
def test_a_codec_is_not_fitted_again_for_an_error_of_the_system(caches, error, monkeypatch):
    folder = caches / "sound"
    monkeypatch.setattr(h5py, "File", fails_at(h5py.File, error, 1))
    with pytest.raises((system.SystemTrouble, MemoryError)):
        codec_file.load(folder, {"codec": {"name": "lowrank-int8"}})


@pytest.mark.parametrize("name", ["flipped", "unlisted"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("call", ["HDF5 object", "HDF5 attribute", "HDF5 visit", "data"])
def test_an_interrupt_in_the_middle_of_hdf5(caches, name, number, call, monkeypatch, tmp_path):
    """It is the interrupt that comes out, and what is done up to it is right."""
    folder = shutil.copytree(caches / name, tmp_path / name)
    owner, attribute, _ = CALLS[call]
    real = getattr(owner, attribute)

    def interrupted(*args, **kwargs):
        signal.raise_signal(number)
        return real(*args, **kwargs)

    old = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        monkeypatch.setattr(owner, attribute, interrupted)
        arguments = ["verify", str(folder), "--repair"]
        assert cli.run(heal if name == "unlisted" else main, arguments) == 130
    finally:
        signal.signal(signal.SIGTERM, old)
    monkeypatch.undo()
    if name == "flipped":
        assert state(folder) == state(caches / name)
    else:
        assert (folder / SHARD).exists()


def test_few_descriptors(caches):
    """However far a repair gets, it ends well or changes nothing."""
    before = state(caches / "sound")

    def check(limit):
        sys.stdout = sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
        os.closerange(3, 1 << 16)  # what the tests have open
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
        os._exit(cli.run(main, ["verify", str(caches / "sound"), "--repair"]))

    ends = []
    for limit in range(3, 12):
        ends.append(in_child(lambda limit=limit: check(limit)))
        assert state(caches / "sound") == before
    assert ends == sorted(ends, reverse=True) and set(ends) == {0, 2}


def test_an_interrupt_while_a_shard_is_sealed_loses_nothing(tmp_path, monkeypatch):
    real = os.replace

    def interrupted(*args):
        signal.raise_signal(signal.SIGINT)
        return real(*args)

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_cache(tmp_path / "cache", num_videos=2)
    monkeypatch.undo()
    assert verify(tmp_path / "cache").videos == 2 and verify(tmp_path / "cache").sound


@pytest.mark.parametrize("error", [MemoryError(), SystemError("x"), KeyboardInterrupt()], ids=repr)
def test_a_seal_that_fails_is_not_tried_twice(tmp_path, monkeypatch, error):
    monkeypatch.setattr(os, "replace", fails_at(os.replace, error, 1))
    with pytest.raises(type(error)):
        write_cache(tmp_path / "cache", num_videos=2)
    monkeypatch.undo()
    assert [p.name for p in (tmp_path / "cache").glob(".shard*")] == []
    write_cache(tmp_path / "cache", num_videos=2)
    assert verify(tmp_path / "cache").sound
