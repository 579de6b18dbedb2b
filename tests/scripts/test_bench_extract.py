"""The benchmark of stage one measures what it says; no time is asserted."""

import json
from pathlib import Path

import pytest

from cache_schema import cli
from scripts import bench_extract

TINY = ["--videos", 2, "--frames", 3, "--size", 48, 64, "--threads", 1, "--device", "cpu"]


def test_every_part_is_measured_in_every_turn(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "figures.json"
    assert cli.run(bench_extract.main, ["demo", *map(str, TINY), "--json", str(out)]) == 0
    figures = json.loads(out.read_text())
    # Two whole videos, and four clips of each.
    assert (figures["frames"], figures["clips"], len(figures["ratios"])) == (6, 10, 2)
    assert all(len(times) == 2 and min(times) > 0 for times in figures["seconds"].values())
    table = capsys.readouterr().out
    assert all(name in table for name in figures["seconds"])


def test_sizes_below_one_are_refused(capsys: pytest.CaptureFixture) -> None:
    assert cli.run(bench_extract.main, ["--videos", "0"]) == 2
    assert "need to be at least 1" in capsys.readouterr().err
