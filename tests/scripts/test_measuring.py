"""What the benchmarks share."""

import json
from pathlib import Path

import pytest
import torch

from cache_schema.host.cli import InputError
from scripts.measuring import (
    attempt,
    errors,
    lines,
    machine,
    number,
    options,
    report,
    seconds_each,
    table,
)


def fail() -> None:
    raise RuntimeError("CUDA error: no kernel image\nand a page of advice")


def test_what_fails_is_entered_and_leaves_the_rest() -> None:
    figures: dict = {"deeper": {}}
    attempt(figures["deeper"], "bad", fail)
    attempt(figures, "good", lambda: {"ms": 1.5})
    attempt(figures, "late", fail, end=0.0)
    assert figures["good"] == {"ms": 1.5}
    assert list(errors(figures)) == [
        "deeper, bad: RuntimeError: CUDA error: no kernel image",
        "late: TimeoutError: no time was left",
    ]
    assert list(lines(figures)) == [
        "deeper, bad: error RuntimeError: CUDA error: no kernel image",
        "good: ms 1.5",
        "late: error TimeoutError: no time was left",
    ]


def test_a_call_is_timed_often_enough() -> None:
    calls: list[int] = []
    device = torch.device("cpu")
    assert seconds_each(lambda: calls.append(1), device, turn=0.0, warm_up=1, least=3) > 0
    assert len(calls) == 4


def test_rows_of_a_table_may_differ() -> None:
    rows = {"one": {"ms": 12345.6}, "other": {"MB": 3}, "bad": {"error": "gone"}, "none": {}}
    assert table(rows) == [
        "             ms        MB",
        "one      12,346          ",
        "other                   3",
        "bad    gone",
    ]


def test_figures_are_printed_and_written(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    figures = {"machine": machine()}
    assert report(figures, ["a line"], tmp_path / "new" / "out.json") == 0
    assert json.loads((tmp_path / "new" / "out.json").read_text()) == figures
    assert capsys.readouterr().out == "a line\n"


@pytest.mark.parametrize("given", ["--size 3 0", "--videos -1"])
def test_numbers_below_one_are_refused(given: str) -> None:
    parser = options("name", None, [("videos", 3, "to draw")])
    number(parser, "size", (4, 5), "of a frame", nargs=2)
    assert parser.parse_args([]).videos == 3 and parser.parse_args([]).size == (4, 5)
    with pytest.raises(InputError, match=r"--(size is 0|videos is -1): give at least 1"):
        parser.parse_args(given.split())
