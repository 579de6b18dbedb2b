"""Files appear whole or not at all, and what cannot be written is one sentence."""

import errno
import os
import signal
import tempfile
from pathlib import Path

import h5py
import numpy as np
import pytest

from cache_schema.host import files
from cache_schema.host.cli import InputError
from cache_schema.sink import Sink, new_hdf5
from tests.cache_schema.helpers import die, in_child


def full(*args, **kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def write_some(path):
    files.write(path, b"new")


def write_hdf5(path):
    with new_hdf5(path) as (file, sink):
        for k in range(20):
            file[str(k)] = np.zeros(10_000)
            sink.check()


WRITERS = {"bytes": (write_some, os, "fsync"), "hdf5": (write_hdf5, os, "pwrite")}


@pytest.mark.parametrize("path", [".", "/", "..", "/dev/null"])
def test_what_is_no_file_is_not_replaced(path):
    with pytest.raises(InputError, match="cannot be written .it is no file"):
        files.write(Path(path), b"new")


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("old", [True, False])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, kind, old):
    write, owner, name = WRITERS[kind]
    path = tmp_path / "below" / "result"
    if old:
        files.write(path, b"old")
    monkeypatch.setattr(owner, name, full)
    with pytest.raises(InputError, match="result cannot be written .No space left on device.; ch"):
        write(path)
    assert [p.name for p in (tmp_path / "below").iterdir()] == (["result"] if old else [])
    assert not old or path.read_bytes() == b"old"


@pytest.mark.parametrize("kind", WRITERS)
def test_a_killed_writer_leaves_the_old_file_and_the_next_one_tidies_up(tmp_path, kind):
    path = tmp_path / "result"
    files.write(path, b"old")

    def killed():
        os.replace = lambda *_: die()
        WRITERS[kind][0](path)

    assert in_child(killed) == -signal.SIGKILL
    assert path.read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 2
    WRITERS[kind][0](path)
    assert [p.name for p in tmp_path.iterdir()] == ["result"]
    if kind == "hdf5":
        with h5py.File(path) as file:
            assert len(file) == 20


def test_what_another_process_is_writing_stays(tmp_path):
    own = tmp_path / f".result.{os.getppid()}.tmp"
    own.write_bytes(b"half")
    files.write(tmp_path / "result", "text")
    files.make_folder(tmp_path)
    assert own.exists() and (tmp_path / "result").read_text() == "text"


@pytest.mark.parametrize("error", [KeyError("x"), KeyboardInterrupt(), MemoryError()])
def test_an_error_on_the_way_leaves_nothing(tmp_path, error):
    def fail(writing):
        with pytest.raises(type(error)), writing as made:
            if isinstance(made, Path):
                made.write_bytes(b"half")
            raise error

    fail(files.replacing(tmp_path / "result"))
    fail(new_hdf5(tmp_path / "result"))
    assert not list(tmp_path.iterdir())


def test_an_error_of_reading_is_not_blamed_on_the_file_that_is_written(tmp_path):
    with pytest.raises(FileNotFoundError), files.replacing(tmp_path / "result"):
        (tmp_path / "source").read_bytes()


@pytest.mark.parametrize("write", [files.make_folder, write_some, write_hdf5])
def test_a_place_that_may_not_be_written(tmp_path, write):
    (tmp_path / "closed").mkdir(0o555)
    (tmp_path / "file").write_bytes(b"")
    os.chmod(tmp_path, 0o755)

    def refused():
        os.setgid(65534)
        os.setuid(65534)
        os.chdir(tmp_path)
        for place in ("closed/new", "file/below/new", "/proc/new/er"):
            with pytest.raises(InputError, match=f"{place} cannot be written"):
                write(Path(place))

    for parent in tmp_path.parents[:3]:  # one more for each of several processes of tests
        if parent.owner() == tmp_path.owner() and parent != Path(tempfile.gettempdir()):
            parent.chmod(0o755)
    assert in_child(refused) == 0


def test_only_files_are_replaced(tmp_path):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name in ("folder", "pipe"):
        with pytest.raises(InputError, match=f"{name} cannot be written .it is no file"):
            files.write(tmp_path / name, b"x")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder", "pipe"]


def test_a_log_on_a_full_disk(tmp_path):
    with pytest.raises(InputError, match="full cannot be written"):
        files.append(Path("/dev/full"), "line")


def test_a_sink_is_closed_whatever_happens(tmp_path, monkeypatch):
    closed = []
    monkeypatch.setattr(Sink, "close", lambda sink: closed.append(sink))
    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(InputError), new_hdf5(tmp_path / "a.h5"):
        pass
    assert closed
