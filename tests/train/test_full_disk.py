"""Stage two on a disk that is full: a sentence, status 2, and what was written before is whole."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.synthetic import write_cache
from tests.train.protocol_caches import write_head
from tests.train.test_training import CONFIG, ROOT

PROGRAM = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
import importlib
from cache_schema.host import cli
sys.exit(cli.run(importlib.import_module(sys.argv[1]).main, sys.argv[3:]))
"""


def run(module: str, room: int, *arguments: str | Path) -> subprocess.CompletedProcess:
    """A command that can write files of so many bytes at most."""
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, module, str(room), *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def check(done: subprocess.CompletedProcess, out: Path) -> None:
    """It ended with one sentence, and left nothing half done."""
    said = [line for line in done.stderr.splitlines() if "INFO" not in line and "%|" not in line]
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "cannot be" in said[-1] and "File too large" in said[-1] and said[-1].startswith("error")
    assert not list(out.rglob("*.tmp"))


@pytest.mark.parametrize("room", [200, 20_000])
def test_training(tmp_path: Path, room: int) -> None:
    """Room for less than a log, and for less than a checkpoint."""
    write_cache(tmp_path / "cache", num_frames=[6, 4])
    (tmp_path / "small.py").write_text(CONFIG)
    arguments = [tmp_path / "small.py", "--cache", tmp_path / "cache", "--work-dir"]
    check(run("train.__main__", room, *arguments, tmp_path / "run"), tmp_path)
    for path in (tmp_path / "run").glob("*.pth"):
        torch.load(path, weights_only=True)


def test_evaluation(tmp_path: Path) -> None:
    """Room for less than the predictions."""
    write_head(tmp_path)
    write_cache(tmp_path / "cache", num_videos=1, num_frames=3)
    arguments = [tmp_path / "config.py", "--cache", tmp_path / "cache", "--device", "cpu"]
    arguments += ["--checkpoint", tmp_path / "iter_0.pth", "--out", tmp_path / "out"]
    check(run("train.evaluate", 5_000, *arguments), tmp_path / "out")
