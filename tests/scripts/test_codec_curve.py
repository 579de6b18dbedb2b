"""The curve of rank against mask IoU on a few demo videos, and what is refused."""

import json
from pathlib import Path

import pytest
from PIL import Image

from cache_schema.host import cli
from cache_schema.host.cli import InputError
from extract.demo.layout import write_split
from scripts import codec_curve


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("world")
    write_split(root, "train", 4, 3)
    return root


def _arguments(data: Path, out: Path, frames: int) -> list[str]:
    where = ["--data-root", str(data), "--out", str(out), "--device", "cpu"]
    return [*where, "--frames", str(frames)]


def test_every_rank_is_measured_on_other_frames(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(codec_curve.main, _arguments(data, tmp_path / "new", 32)) == 0
    content = json.loads((tmp_path / "new" / "codec_curve.json").read_text())
    assert content["frames"] == {"fitted": 16, "tested": 16} and content["masks"] > 16
    half, quarter = content["codecs"]
    assert half["bytes"] == 2 * 64 * 24 * 40 and half["iou"]["mean"] > 0.999
    assert quarter["bytes"] == 64 * (24 * 40 + 4) and quarter["iou"]["mean"] > 0.99
    rows = content["ranks"]
    assert [row["rank"] for row in rows] == list(range(1, 65))
    assert [row["bytes"] for row in rows] == [rank * (24 * 40 + 4) for rank in range(1, 65)]
    for rank in (4, 8, 16):
        # Even a basis of two clips knows better than plain PCA what masks need.
        weighted, plain = rows[rank - 1]["weighted"], rows[rank - 1]["plain"]
        assert weighted["mean"] > plain["mean"] + 0.01
        assert weighted["worst"] <= weighted["percentile_5"] <= 1
    assert rows[-1]["plain"]["mean"] > 0.99 < rows[-1]["weighted"]["mean"]
    printed = capsys.readouterr().out
    assert "rank 15" in printed and f"{rows[14]['weighted']['mean']:.4f}" in printed
    with Image.open(tmp_path / "new" / "codec_curve.png") as picture:
        assert picture.width > 500


def test_what_cannot_be_measured_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--frames is 1: give at least 2"):
        codec_curve.main(_arguments(data, tmp_path, 1))
    with pytest.raises(InputError, match="no mask is left to test on"):
        codec_curve.measure([], 8)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written.*give another"):
        codec_curve.main(_arguments(data, tmp_path / "file", 16))
