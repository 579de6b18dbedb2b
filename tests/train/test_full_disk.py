"""Stage two on a disk that is full: a sentence, status 2, and what was written before is whole."""

import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from cache_schema.host import cli
from tests.cache_schema.helpers import in_child
from tests.synthetic import write_cache
from tests.train.protocol_caches import write_head
from tests.train.test_training import CONFIG
from train.__main__ import main as train
from train.evaluate import main as evaluate


def check(out: Path, command: Callable, room: int, *arguments: str | Path) -> None:
    """It can write files of so many bytes: it ends with one sentence, and nothing is half done."""
    reading, writing = os.pipe()

    def limited() -> None:
        os.dup2(writing, 2)
        sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
        os._exit(cli.run(command, list(map(str, arguments))))

    status = in_child(limited)
    os.close(writing)
    with open(reading) as pipe:
        whole = pipe.read()
    said = [line for line in whole.splitlines() if "INFO" not in line and "%|" not in line]
    assert status == 2 and "Traceback" not in whole
    assert "cannot be" in said[-1] and "File too large" in said[-1] and said[-1].startswith("error")
    assert not list(out.rglob("*.tmp"))


@pytest.mark.parametrize("room", [200, 20_000])
def test_training(tmp_path: Path, room: int) -> None:
    """Room for less than a log, and for less than a checkpoint."""
    write_cache(tmp_path / "cache", num_frames=[6, 4])
    (tmp_path / "small.py").write_text(CONFIG)
    arguments = [tmp_path / "small.py", "--cache", tmp_path / "cache", "--device", "cpu"]
    check(tmp_path, train, room, *arguments, "--work-dir", tmp_path / "run")
    for path in (tmp_path / "run").glob("*.pth"):
        torch.load(path, weights_only=True)


def test_evaluation(tmp_path: Path) -> None:
    """Room for less than the predictions."""
    write_head(tmp_path)
    write_cache(tmp_path / "cache", num_videos=1, num_frames=3)
    arguments = [tmp_path / "config.py", "--cache", tmp_path / "cache", "--device", "cpu"]
    arguments += ["--checkpoint", tmp_path / "iter_0.pth", "--out", tmp_path / "out"]
    check(tmp_path / "out", evaluate, 5_000, *arguments)
