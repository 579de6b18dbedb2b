"""The benchmark of training runs through, on sizes that measure nothing; no time is asserted."""

import json
from pathlib import Path

import pytest

from cache_schema.host import cli
from scripts.bench_train import main

SMALL = (
    "--channels 64 --height 8 --width 16 --clip 2 --frames 3 --videos 1 --layers 1 --points 9 "
    "--queries 3 --rounds 1 --turn 0 --device cpu"
)


def test_every_way_is_measured_in_a_process_of_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "bench.json"
    more = f"--ranks --sweep 2 --segmenter demo --dir {tmp_path} --json {out}"
    assert cli.run(main, [*SMALL.split(), *more.split()]) == 0
    found = json.loads(out.read_text())
    ways = [*(f"{what}, float16" for what in ("load", "step", "load and step", "sweep of 2"))]
    assert sorted(found["seconds"]) == sorted([*ways, "segmenter"])
    assert all(len(times) == 1 and times[0] > 0 for times in found["seconds"].values())
    assert all(own["peak"] > own["beyond"] > 0 for own in found["memory"].values())
    printed = capsys.readouterr().out
    assert all(way in printed for way in ways) and "2 single runs take" in printed
    assert list(tmp_path.iterdir()) == [out]  # the caches are gone


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--clip 5", "--clip 5 is more than a video has frames (3)"),
        ("--rounds 0", "--rounds is 0: give at least 1"),
    ],
)
def test_sizes_that_make_no_sense_are_refused(
    capsys: pytest.CaptureFixture[str], options: str, words: str
) -> None:
    assert cli.run(main, [*SMALL.split(), *options.split()]) == 2
    assert words in capsys.readouterr().err
