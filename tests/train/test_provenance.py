"""Where a result comes from: the commit it was run from, and what else is told of a run."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

import cache_schema
from cache_schema.reader import CacheReader
from tests import synthetic
from tests.processes import LONG
from train import provenance
from train.provenance import cache_identity, code_version, describe_run

GIT = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package in a fresh git checkout, under whose name the project is found."""
    package = tmp_path / "checkout" / "package"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    monkeypatch.setattr(cache_schema, "__file__", str(package / "__init__.py"))
    monkeypatch.setattr(provenance, "GIT_SECONDS", LONG)
    return package


def _git(package: Path, *arguments: str) -> str:
    done = subprocess.run([*GIT, "-C", str(package), *arguments], capture_output=True, check=True)
    return done.stdout.decode().strip()


@pytest.mark.skipif(shutil.which("git") is None, reason="there is no git")
def test_the_commit_is_told_where_the_package_is_part_of_a_checkout(package: Path) -> None:
    assert code_version() == {"version": cache_schema.__version__, "commit": None}
    _git(package, "init", "--quiet")
    assert code_version()["commit"] is None
    _git(package, "add", ".")
    _git(package, "commit", "--quiet", "-m", "first")
    head = _git(package, "rev-parse", "HEAD")
    assert code_version()["commit"] == head
    _git(package, "tag", "v1")
    assert code_version()["commit"] == head
    (package / "__init__.py").write_text("changed = True")
    assert code_version()["commit"] == f"{head}-dirty"
    _git(package, "rm", "--quiet", "--cached", "__init__.py")
    assert code_version()["commit"] is None  # installed below a checkout


def test_a_git_that_is_not_there_or_hangs_is_none(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert code_version()["commit"] is None
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "git").write_text("#!/bin/sh\nexec /bin/sleep 60\n")
    (tmp_path / "bin" / "git").chmod(0o755)
    monkeypatch.setattr(provenance, "GIT_SECONDS", 0.2)
    assert code_version()["commit"] is None


def test_a_run_is_described_in_json(tmp_path: Path) -> None:
    synthetic.write_cache(tmp_path / "cache", num_videos=1, num_frames=2)
    reader = CacheReader(tmp_path / "cache")
    run = describe_run(
        config={"model": {"hidden_dim": 16}},
        seed=3,
        caches={"training": [cache_identity(reader)]},
        device=torch.device("cpu"),
        seconds=1.26,
        checkpoint="ab",
    )
    assert json.loads(json.dumps(run)) == run
    assert run["caches"]["training"] == [
        {"fingerprint": reader.fingerprint_hex, "dataset": "synthetic", "split": "train"}
    ]
    assert (run["seed"], run["seconds"], run["checkpoint"]) == (3, 1.3, "ab")
    assert run["config"]["model"]["hidden_dim"] == 16
    assert run["torch"] == torch.__version__ and run["device"] == "cpu"
    assert run["machine"]["gpu"] is None and run["machine"]["processors"] >= 1
    assert run["peak_gpu_memory_mb"] is None
    assert 50 < run["peak_memory_mb"] < 100_000  # torch alone takes more than 50 MB
