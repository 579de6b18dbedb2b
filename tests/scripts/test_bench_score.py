"""The benchmark of scoring runs through; no time is asserted."""

import json
from pathlib import Path

import pytest

from cache_schema.host import cli
from scripts import bench_score


def test_every_kind_of_masks_is_scored(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "figures.json"
    sizes = ["--videos", "1", "--frames", "2", "--repeats", "1", "--workers", "1"]
    assert cli.run(bench_score.main, [*sizes, "--json", str(out)]) == 0
    figures = json.loads(out.read_text())
    assert (figures["videos"], figures["frames"], figures["workers"]) == (1, 2, 1)
    assert len(figures["rows"]) == len(bench_score.WRITERS) * len(bench_score.SHARING) == 4
    for row in figures["rows"].values():
        assert row["ms"] > 0 and 0.5 < row["J&F"] < 1
    table = capsys.readouterr().out
    assert all(writer in table for writer in bench_score.WRITERS)


def test_sizes_below_one_are_refused(capsys: pytest.CaptureFixture) -> None:
    assert cli.run(bench_score.main, ["--frames", "0"]) == 2
    assert "--frames is 0: give at least 1" in capsys.readouterr().err
