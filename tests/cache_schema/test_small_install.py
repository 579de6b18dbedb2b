"""Caches are read, checked and described with NumPy and h5py alone."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CACHE = ROOT / "tests/data/cache_v1/float16"

#: Runs the command line of the cache with nothing but Python, NumPy and h5py to import.
ALONE = """
import importlib.abc, sys
ALLOWED = {"numpy", "h5py", "cache_schema", *sys.stdlib_module_names}

class Nothing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in ALLOWED and not name.startswith("_"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

import numpy, h5py
sys.meta_path.insert(0, Nothing())
sys.path_importer_cache.clear()
from cache_schema.__main__ import main
from cache_schema.host import cli
sys.exit(cli.run(main))
"""


def run(*words: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", ALONE, *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize("command", ["info", "verify", "stats"])
def test_commands_need_no_more(command: str) -> None:
    done = run(command, str(CACHE))
    assert done.returncode == 0, done.stderr


def test_a_picture_says_what_it_needs(tmp_path: Path) -> None:
    done = run("stats", str(CACHE), "--out", str(tmp_path / "picture.png"))
    assert done.returncode == 2
    assert "matplotlib" in done.stderr and "pip install" in done.stderr
    assert len(done.stderr.splitlines()) == 1
