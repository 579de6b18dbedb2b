"""The benchmark for GPUs runs through on a CPU, on sizes that measure nothing."""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from cache_schema.host import cli
from scripts.bench_gpu import __main__ as bench
from scripts.bench_gpu import sound, stage_one, stage_two
from scripts.measuring import errors, union

CPU = torch.device("cpu")
TINY = argparse.Namespace(tiny=True, device="cpu", turn=0.0)


@pytest.fixture(autouse=True)
def settings_stay() -> Iterator[None]:
    """What a benchmark sets for its process is not to reach other tests."""
    tf32 = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = tf32


def test_stage_two_is_measured() -> None:
    figures: dict = {}
    stage_two.measure(TINY, CPU, figures)
    assert not list(errors(figures))
    assert {"load ms", "step ms", "ms", "it/s"} < figures["rank 8, 2 clips"].keys()
    assert figures["run, rank 8"]["ms"] > 0
    assert figures["VITA demo in the loop, 2 clips"]["ms"] > 0


def test_sweeps_are_measured_against_one_head() -> None:
    figures: dict = {}
    stage_two.sweeps(TINY, CPU, figures)
    assert not list(errors(figures))
    assert list(figures) == ["1 heads", "2 heads", "2 heads together"]
    assert figures["1 heads"]["single runs /"] == 1.0 and figures["2 heads"]["single runs /"] > 0


def test_the_device_is_compared_with_the_cpu() -> None:
    figures: dict = {}
    sound.measure(TINY, CPU, figures)
    assert not list(errors(figures))
    assert figures["VITA, none"]["mask features"] == 0.0
    assert figures["head"]["3 steps without graphs"] == 0.0
    assert figures["resume"]["bitwise"]


def test_stage_one_is_measured() -> None:
    figures: dict = {}
    stage_one.measure(argparse.Namespace(tiny=True, turn=2.0), CPU, figures)
    assert not list(errors(figures))
    found = figures["demo"]
    for name in stage_one.WHOLE:
        assert all(found[name][part]["rate"] > 0 for part in ("bare", "model", "whole"))
        assert found[name]["whole"]["videos"] == 3 and found[name]["whole / bare"] > 0
    assert found["bfloat16+tf32"]["eager"]["rate"] > 0
    assert "busy_share" in found["bfloat16+tf32"]["busy"]  # here, other threads are not traced
    assert all(found[name]["bare / library"] > 0 for name in stage_one.PRECISIONS)
    json.dumps(figures)


def test_the_profile_names_what_ran() -> None:
    figures: dict = {}
    stage_one.profile(TINY, CPU, figures)
    stage_two.profile(TINY, CPU, figures)
    assert not list(errors(figures)) and len(figures) == 3
    for found in figures.values():
        assert len(found["top"]) == 10 and found["top"][0]["name"].startswith("aten::")


def test_the_union_counts_no_moment_twice() -> None:
    assert union([(0, 2, "a"), (1, 2, "b"), (5, 1, "c"), (5.25, 0.5, "d")]) == (4, 6)
    assert union([]) == (0, 0)


def test_a_part_that_is_stopped_or_fails_leaves_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(bench.PARTS, "profile", 0.01)
    out = tmp_path / "figures.json"
    options = ["--tiny", "--device", "cpu", "--part", "profile", "sweeps", "--json", str(out)]
    assert cli.run(bench.main, options) == 2
    found = json.loads(out.read_text())
    assert found["profile"]["error"] == "stopped after 0.01 s"
    assert found["sweeps"]["2 heads"]["ms"] > 0
    assert "something could not be measured in profile" in capfd.readouterr().err
