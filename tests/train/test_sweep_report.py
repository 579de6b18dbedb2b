"""What a sweep says: the figures, the same in every form, and files that appear whole."""

import csv
import io
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from cache_schema.host.cli import InputError
from train.evaluation.protocols.expressions import Score, metrics
from train.records import ExpressionRef
from train.sweeping import report

KEYS = [f"v{i}/{e}" for i in range(4) for e in range(3)]
TAGS = {key: ("static", "reversible", "irreversible")[int(key[-1])] for key in KEYS}
PARAMETERS = {"full": 12_701_697, "plain": 11_000_000, "half": 6_000_000}
SECONDS = {"full": 61.4, "plain": 50.0, "half": 30.0}


def _metrics(offset: float) -> dict:
    """J of expression i is i / 20 + offset, F 0.1 more."""
    scores = {
        key: Score(i / 20 + offset, i / 20 + offset + 0.1, target=i > 0, found=offset > 0.14)
        for i, key in enumerate(KEYS)
    }
    expressions = [
        ExpressionRef(*key.split("/"), f"text of {key}", TAGS[key], [], []) for key in KEYS
    ]
    return metrics(expressions, scores)


@pytest.fixture
def results() -> dict[str, list[dict]]:
    return {
        "full": [_metrics(0.10), _metrics(0.12), _metrics(0.20)],
        "plain": [_metrics(0.02), _metrics(0.06)],
        "half": [_metrics(0.15)],
    }


def _write(folder: Path, results: dict, **more: object) -> str:
    how = {"reference": "full", "parameters": PARAMETERS, "seconds": SECONDS, **more}
    return report.write_report(folder, results, **how)


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def test_figures_are_means_and_spreads_over_seeds(tmp_path: Path, results: dict) -> None:
    _write(tmp_path, results)
    content = json.loads((tmp_path / "sweep.json").read_text())
    whole = np.mean([i / 20 for i in range(12)]) + 0.05
    full, plain, half = (content["variants"][name] for name in ("full", "plain", "half"))
    assert full["seeds"] == 3 and full["J&F"]["values"] == pytest.approx(
        [whole + o for o in (0.10, 0.12, 0.20)]
    )
    assert full["J&F"]["mean"] == pytest.approx(whole + 0.14)
    assert full["J&F"]["std"] == pytest.approx(np.std([0.10, 0.12, 0.20], ddof=1))
    assert full["F"]["mean"] - full["J"]["mean"] == pytest.approx(0.1)
    static = np.mean([i / 20 for i in range(0, 12, 3)]) + 0.05
    assert half["per_tag"]["static"]["mean"] == pytest.approx(static + 0.15)
    assert half["J&F"]["std"] is None
    # All expressions differ by the same, so any resample says the same.
    assert full["difference"] is None
    assert plain["difference"] == pytest.approx({"mean": -0.1, "low": -0.1, "high": -0.1})
    assert half["difference"]["mean"] == pytest.approx(0.01)
    assert full["N-acc"]["values"] == [1.0, 1.0, 0.0] and half["T-acc"]["mean"] == 1.0
    assert content["num_expressions"] == 12
    assert content["num_per_tag"] == {"static": 4, "reversible": 4, "irreversible": 4}
    assert content["per_expression"]["plain"][1]["v1/0"] == pytest.approx([0.21, 0.31])
    assert content["expressions"]["v1/0"] == {"tag": "static", "text": "text of v1/0"}


def test_every_form_says_the_same(tmp_path: Path, results: dict) -> None:
    printed = _write(tmp_path, results, dropped={"wide, seed 2": "the loss is nan"})
    markdown = (tmp_path / "sweep.md").read_text()
    table = markdown.split("\n\n")[0].splitlines()
    assert len(table) == 2 + 3 + 1
    head, _, full, plain, half, counts = map(_cells, table)
    assert head == ["", "seeds", "J&F", "static", "reversible", "irreversible", "J", "F",
                    "difference", "interval", "M", "seconds"]  # fmt: skip
    assert full[:3] == ["full", "3", "46.5 ± 5.3"] and full[8:] == ["", "", "12.70", "61"]
    assert plain[2] == "36.5 ± 2.8" and plain[8:] == ["-10.0", "-10.0 to -10.0", "11.00", "50"]
    assert half[2] == "47.5"
    assert counts[:6] == ["expressions", "", "12", "4", "4", "4"]
    for line, cells in zip(printed.splitlines()[2:5], (full, plain, half), strict=True):
        assert line.split() == " ".join(cells).split()
    for text in (printed, markdown):
        assert "Dropped: wide, seed 2: the loss is nan" in text
        assert "less that of full" in text and "does not contain the spread over seeds" in text

    records = list(csv.DictReader(io.StringIO((tmp_path / "sweep.csv").read_text())))
    assert [r["variant"] for r in records] == ["full", "plain", "half"]
    for record, cells in zip(records, (full, plain, half), strict=True):
        assert cells[2].startswith(f"{100 * float(record['J&F mean']):.1f}")
        assert cells[3].startswith(f"{100 * float(record['static mean']):.1f}")
    assert records[0]["difference mean"] == records[2]["J&F std"] == records[0]["paper J"] == ""
    assert float(records[1]["difference low"]) == pytest.approx(-0.1)
    assert int(records[1]["parameters"]) == 11_000_000
    assert float(records[0]["N-acc mean"]) == pytest.approx(2 / 3)


def test_the_papers_figures_stand_beside_where_they_apply(tmp_path: Path, results: dict) -> None:
    assert "paper" not in _write(tmp_path, results)
    printed = _write(tmp_path, results, paper={"plain": (41.2, 38.0, 44.4)}).splitlines()
    assert printed[0].endswith("paper J&F  paper J  paper F")
    assert printed[3].split()[-3:] == ["41.2", "38.0", "44.4"]
    assert printed[2].split()[-1] == "61"
    content = json.loads((tmp_path / "sweep.json").read_text())
    assert content["variants"]["plain"]["paper"] == {"J&F": 41.2, "J": 38.0, "F": 44.4}


def test_the_picture_shows_every_variant(tmp_path: Path, results: dict) -> None:
    many = {f"{name}{i}": of for i in range(5) for name, of in results.items()}
    paper = {"full1": (50.0, 1.0, 1.0)}
    _write(tmp_path, many, reference="full0", parameters={}, seconds={}, paper=paper)
    image = cv2.imread(str(tmp_path / "sweep.png"))
    height, width = image.shape[:2]
    assert width > 900 and height > 15 * 40
    blue, orange = (np.abs(image.astype(int) - colour).sum(-1) < 60
                    for colour in ((180, 119, 31), (14, 127, 255)))  # fmt: skip
    rows = np.flatnonzero(blue.any(1))
    assert (np.diff(rows) > 1).sum() == 13  # 14 variants beside the reference, one above another
    assert orange.any(1).mean() > 0.7  # the line at the reference


def test_without_the_reference_there_are_no_differences(tmp_path: Path, results: dict) -> None:
    printed = _write(tmp_path, results, reference="gone", dropped={"gone": "the loss is nan"})
    assert "less that of" not in printed and "Dropped: gone: the loss is nan" in printed
    content = json.loads((tmp_path / "sweep.json").read_text())
    assert content["reference"] is None
    assert all(v["difference"] is None for v in content["variants"].values())


def test_what_cannot_be_reported_is_said(tmp_path: Path, results: dict) -> None:
    with pytest.raises(InputError, match="nothing to report: full: the loss is nan"):
        _write(tmp_path, {"full": []}, dropped={"full": "the loss is nan"})
    other = _metrics(0.1)
    del other["per_expression"][KEYS[0]]
    with pytest.raises(InputError, match="a variant and the reference were scored on different"):
        _write(tmp_path, {**results, "other": [other]})
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        _write(tmp_path / "file", results)


def test_a_report_that_fails_leaves_the_old_files(
    tmp_path: Path, results: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    _write(tmp_path, results)
    names = {"sweep.csv", "sweep.json", "sweep.md", "sweep.png"}
    assert {path.name for path in tmp_path.iterdir()} == names
    before = {name: (tmp_path / name).read_bytes() for name in names}

    def fail(content: dict) -> bytes:
        raise RuntimeError("stop")

    monkeypatch.setattr(report, "draw", fail)
    with pytest.raises(RuntimeError):
        _write(tmp_path, {"full": results["half"]})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
