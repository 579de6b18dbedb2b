"""The benchmark for GPUs runs through on a CPU, on sizes that measure nothing."""

import argparse
import json
from pathlib import Path

import pytest
import torch

from cache_schema.host import cli
from scripts.bench_gpu import __main__ as bench
from scripts.bench_gpu import sound, stage_two

CPU = torch.device("cpu")
TINY = argparse.Namespace(tiny=True, device="cpu", turn=0.0)


def test_stage_two_is_measured() -> None:
    figures: dict = {}
    stage_two.measure(TINY, CPU, figures)
    assert not bench.failures(figures), figures
    assert figures["rank 8, 2 clips"].keys() == {"load", "step", "load and step"}
    assert figures["run"] > 0 and figures["VITA demo in the loop, 2 clips"] > 0
    text = "\n".join(stage_two.lines(figures))
    assert all(name in text for name in figures)


def test_sweeps_are_measured_against_one_head() -> None:
    figures: dict = {}
    stage_two.sweeps(TINY, CPU, figures)
    assert not bench.failures(figures), figures
    assert list(figures) == ["1 heads", "2 heads", "2 heads together"]
    assert "as many runs of one take 1.00 times as long" in stage_two.sweep_lines(figures)[0]


def test_the_device_is_compared_with_the_cpu() -> None:
    figures: dict = {}
    sound.measure(TINY, CPU, figures)
    assert not bench.failures(figures), figures
    assert figures["VITA, none"]["mask features"] == 0.0
    assert figures["head"]["3 steps without graphs"] == 0.0
    assert figures["resume"]["bitwise"]
    assert len(sound.lines(figures)) == len(figures)


def test_a_part_that_is_stopped_or_fails_leaves_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(bench.PARTS, "profile", 0.01)
    out = tmp_path / "figures.json"
    options = ["--tiny", "--device", "cpu", "--part", "profile", "sweeps", "--json", str(out)]
    assert cli.run(bench.main, options) == 2
    found = json.loads(out.read_text())
    assert found["profile"]["error"] == "stopped after 0.01 s"
    assert found["sweeps"]["2 heads"]["s"] > 0
    assert "something could not be measured in profile" in capfd.readouterr().err
