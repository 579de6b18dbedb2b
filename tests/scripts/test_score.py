"""Scoring of PNG masks: folder and zip, against the original evaluator."""

import json
import zipfile
from pathlib import Path

import pytest

from cache_schema import cli
from scripts import score

GOLDEN = Path(__file__).parents[1] / "data" / "jf" / "mevis_syn.zip"


@pytest.fixture
def split(tmp_path: Path) -> Path:
    zipfile.ZipFile(GOLDEN).extractall(tmp_path / "valid_u")
    return tmp_path / "valid_u"


def _run(split: Path, pred: Path) -> int:
    out = split / "out" / "metrics.json"
    return cli.run(
        score.main,
        ["--dataset", "mevis", "--root", str(split.parent), "--split", split.name]
        + ["--pred", str(pred), "--out", str(out)],
    )


def test_folder_and_zip_score_as_the_original(split: Path) -> None:
    packed = split / "masks.zip"
    with zipfile.ZipFile(packed, "w") as file:
        for path in sorted((split / "pred").rglob("*.png")):
            file.write(path, path.relative_to(split / "pred"))
    expected = json.loads((split / "expected.json").read_text())
    for pred in (split / "pred", packed):
        assert _run(split, pred) == 0
        found = json.loads((split / "out" / "metrics.json").read_text())
        assert found["num_expressions"] == len(expected["per_expression"])
        for key in ("J", "F", "J&F"):
            assert found[key] == pytest.approx(expected[key], abs=1e-12)
        for key, (region, boundary) in expected["per_expression"].items():
            entry = found["per_expression"]["/".join(key.rsplit("_", 1))]
            assert entry["J"] == pytest.approx(region, abs=1e-12)
            assert entry["F"] == pytest.approx(boundary, abs=1e-12)


def test_bad_input_ends_in_a_sentence(split: Path, capsys: pytest.CaptureFixture) -> None:
    def error(pred: Path) -> str:
        assert _run(split, pred) == 2
        return capsys.readouterr().err

    assert "neither a folder nor a zip" in error(split / "absent")
    (split / "pred" / "vid0_00" / "1" / "00002.png").unlink()
    assert "00002.png cannot be read" in error(split / "pred")
    (split / "mask_dict.json").unlink()
    assert "no truth to score with" in error(split / "pred")
