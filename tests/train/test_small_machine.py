"""Training with processes that load data on a machine that gives little: it works or says why."""

import ctypes
import os
import resource
from collections.abc import Callable
from pathlib import Path

import pytest

from cache_schema.host import cli
from tests.processes import Command
from tests.synthetic import write_cache
from tests.train.test_training import CONFIG
from train.__main__ import main

NEW_MOUNTS, PRIVATE = 0x00020000, 1 << 14 | 1 << 18  # CLONE_NEWNS; MS_REC, MS_PRIVATE
LACKS = ("lack room", "has ended", "Too many open files")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("small") / "cache"
    write_cache(path, num_frames=12, h=24, w=32)
    return path


def own_mounts(place: str | Path, kilobytes: int, *, read_only: bool = False) -> None:
    """A file system of so many KiB at a place, which only this process sees; needs root."""
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.unshare(NEW_MOUNTS) == 0
    assert libc.mount(b"none", b"/", None, PRIVATE, None) == 0
    size = f"size={kilobytes}k".encode()
    assert libc.mount(b"tmpfs", os.fsencode(place), b"tmpfs", int(read_only), size) == 0


def train(cache: Path, folder: Path, limit: Callable[[], None], *options: str) -> Command:
    """A run under a limit that it sets itself, in a process of its own."""
    (folder / "small.py").write_text(CONFIG)
    given = ["--cache", str(cache), "--work-dir", str(folder / "run"), "--device", "cpu"]
    options = ["train.max_iters=4", "data.num_workers=2", *options]

    def run() -> int:
        limit()
        return cli.run(main, [str(folder / "small.py"), *given, "--cfg-options", *options])

    return Command(run, folder / "said")


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small /dev/shm")
@pytest.mark.parametrize("kilobytes", [8, 400, 1600, 65536])
def test_little_shared_memory(cache: Path, tmp_path: Path, kilobytes: int) -> None:
    run = train(cache, tmp_path, lambda: own_mounts("/dev/shm", kilobytes))
    said = run.said()
    assert "Traceback" not in said
    if kilobytes == 65536:  # of a container
        assert run.status == 0, said
    elif run.status:
        assert run.status == 2 and any(word in said.splitlines()[-1] for word in LACKS), said
    assert kilobytes > 8 or run.status == 2


@pytest.mark.parametrize("room", [4, 12, 512])
def test_few_open_files(cache: Path, tmp_path: Path, room: int) -> None:
    """So many more than the process has."""

    def limit() -> None:
        there = len(os.listdir("/proc/self/fd"))
        resource.setrlimit(resource.RLIMIT_NOFILE, (there + room,) * 2)

    run = train(cache, tmp_path, limit)
    said = run.said()
    assert "Traceback" not in said
    assert run.status == (0 if room == 512 else 2), said
