"""The benchmark of stage one measures what it says; no time is asserted."""

import json
from pathlib import Path

import pytest

from cache_schema.host import cli
from scripts import bench_extract

TINY = ["--videos", 2, "--frames", 3, "--size", 48, 64, "--threads", 1, "--device", "cpu"]


def test_both_are_measured_in_every_turn(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "figures.json"
    assert cli.run(bench_extract.main, ["demo", *map(str, TINY), "--json", str(out)]) == 0
    figures = json.loads(out.read_text())
    # Two videos with four clips each.
    assert (figures["frames"], figures["clips"], len(figures["ratios"])) == (6, 8, 2)
    assert all(min(times) > 0 for times in figures["seconds"].values())
    # Each turn of stage one lies between two of the bare model.
    turns = {name: len(times) for name, times in figures["seconds"].items()}
    assert turns.pop("bare model") == 3 and set(turns.values()) == {2}
    bare, whole = figures["seconds"]["bare model"], figures["seconds"]["stage one"]
    assert figures["ratios"][1] == pytest.approx((bare[1] + bare[2]) / 2 / whole[1])
    table = capsys.readouterr().out
    assert all(name in table for name in figures["seconds"])


def test_sizes_below_one_are_refused(capsys: pytest.CaptureFixture) -> None:
    assert cli.run(bench_extract.main, ["--videos", "0"]) == 2
    assert "--videos is 0: give at least 1" in capsys.readouterr().err
