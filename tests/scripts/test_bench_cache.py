"""The benchmark of loading runs through, on sizes that measure nothing."""

import json
from pathlib import Path

import pytest

from cache_schema.host import cli
from scripts.bench_cache import main

SMALL = "--videos 2 --frames 5 --clip 3 --channels 8 --height 6 --width 10 --ranks 2 --rounds 1"


def test_the_table_is_printed_and_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "bench.json"
    more = f"--workers 0 --dir {tmp_path} --json {out}"
    assert cli.run(main, [*SMALL.split(), *more.split()]) == 0
    found = json.loads(out.read_text())
    assert found["machine"]["cores"] >= 1 and found["sizes"]["clip"] == 3
    assert list(found["loading"]) == ["float16, 0 workers", "rank 2, 0 workers"]
    assert found["loading"]["float16, 0 workers"]["x float16"] == 1.0
    printed = capsys.readouterr().out
    assert "clip 3, channels 8, height 6" in printed and "rank 2, 0 workers" in printed
    assert list(tmp_path.iterdir()) == [out]  # the caches are gone


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--frames 4 --clip 5", "--frames is 4: give at least 5"),
        ("--clip 0", "--clip is 0: give at least 1"),
        ("--rounds 0", "--rounds is 0: give at least 1"),
    ],
)
def test_sizes_that_make_no_sense_are_refused(
    capsys: pytest.CaptureFixture[str], options: str, words: str
) -> None:
    assert cli.run(main, [*SMALL.split(), *options.split()]) == 2
    assert words in capsys.readouterr().err
