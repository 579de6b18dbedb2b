"""The picture sheet: what it chooses and draws, and what it refuses."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cache_schema.host import cli
from cache_schema.host.cli import InputError
from extract.datasets.mevis import MeViS
from extract.demo.layout import write_split
from scripts import draw_overlays
from train.evaluation.pngs.files import mask_name, write_png
from train.evaluation.pngs.png import encode_mask
from train.evaluation.protocols.expressions import Truth


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Demo videos whose predictions are the truth; scores are made up."""
    root = tmp_path_factory.mktemp("world")
    write_split(root, "valid_u", 4, 3)
    scores = {}
    for video in MeViS(root, "valid_u"):
        ids = [e.annotation_ids for e in video.expressions]
        truth = Truth(video.objects, ids, size=video.size(), where=video.id)
        for i, e in enumerate(video.expressions):
            scores[f"{video.id}/{e.id}"] = {"J&F": (len(scores) * 7 % 20) / 20}
            for t, frame in enumerate(video.frame_names):
                name = mask_name(video.id, e.id, frame)
                write_png(root / "masks" / name, encode_mask(truth.frame(t)[i]))
    (root / "metrics.json").write_text(json.dumps({"per_expression": scores}))
    return root


def _arguments(world: Path, out: Path, *more: str) -> list[str]:
    return [
        "--data-root", str(world), "--split", "valid_u", "--masks", str(world / "masks"),
        "--metrics", str(world / "metrics.json"), "--out", str(out), *more,
    ]  # fmt: skip


def test_a_sheet_is_drawn_and_the_same_again(world: Path, tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        arguments = _arguments(world, tmp_path / "new" / name, "--num", "4", "--columns", "5")
        assert cli.run(draw_overlays.main, arguments) == 0
    first, second = (np.asarray(Image.open(tmp_path / "new" / n)) for n in ("a.png", "b.png"))
    np.testing.assert_array_equal(first, second)
    assert first.shape[0] > 1000 and first.shape[1] > 1000 and first.std() > 20
    for colour in (draw_overlays.TRUTH, draw_overlays.PREDICTION):
        assert (first == colour).all(-1).sum() > 1000


def scores_of(world: Path) -> dict[str, float]:
    content = json.loads((world / "metrics.json").read_text())
    return {key: value["J&F"] for key, value in content["per_expression"].items()}


def test_the_choice_spreads_over_tags_and_scores(world: Path) -> None:
    data = MeViS(world, "valid_u")
    scores = scores_of(world)
    shown = draw_overlays.choose(data, scores, 7)
    assert len({(s.video, s.expression.id) for s in shown}) == len(shown) == 7
    tags = [s.expression.tag for s in shown if s.expression.annotation_ids]
    assert set(tags) == {"static", "reversible", "irreversible"}
    for tag in ("static", "reversible"):
        of_tag = [s.score for s in shown if s.expression.tag == tag and s.expression.annotation_ids]
        assert max(of_tag) > min(of_tag)
    everything = [e for video in data for e in video.expressions]
    if any(not e.annotation_ids for e in everything):
        assert any(not s.expression.annotation_ids for s in shown)
    assert len(draw_overlays.choose(data, scores, 1)) == 1
    for num, there in ((len(scores) - 1, len(scores) - 1), (1000, len(scores))):
        assert len({s.key for s in draw_overlays.choose(data, scores, num)}) == there


def test_a_mask_colours_its_object_and_pales_the_rest() -> None:
    frame = np.full((20, 30, 3), 60, np.uint8)
    mask = np.zeros((20, 30), bool)
    mask[5:15, 5:15] = True
    picture = draw_overlays.overlay(frame, mask, (60, 40), (255, 0, 0))
    assert picture.shape == (40, 60, 3)
    inside, outside, edge = picture[20, 20], picture[20, 50], picture[20, 10]
    assert inside[0] > inside[1] and outside[0] == outside[1] > 60
    assert edge.tolist() == [255, 0, 0]


def test_missing_results_end_in_a_sentence(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    def error(arguments: list[str]) -> str:
        assert cli.run(draw_overlays.main, arguments) == 2
        return capsys.readouterr().err

    out = tmp_path / "a.png"
    assert "absent.json is not the metrics.json" in error(
        _arguments(world, out, "--metrics", str(tmp_path / "absent.json"))
    )
    empty = tmp_path / "metrics.json"
    empty.write_text('{"per_expression": {"x/0": {"J&F": 1.0}}}')
    assert "no expression of" in error(_arguments(world, out, "--metrics", str(empty)))
    assert "cannot be read" in error(_arguments(world, out, "--masks", str(tmp_path / "absent")))
    assert "cannot be written" in error(_arguments(world, Path("/dev/null/a.png")))
    assert "ends in .png" in error(_arguments(world, tmp_path / "a"))
    for option in ("--num", "--columns"):
        assert "give 1 or more" in error(_arguments(world, out, option, "-1"))
    assert not out.exists()


def test_masks_of_another_size_are_refused(world: Path, tmp_path: Path) -> None:
    data = MeViS(world, "valid_u")
    shown = draw_overlays.choose(data, scores_of(world), 1)
    for frame in data.video(shown[0].video).frame_names:
        path = tmp_path / mask_name(shown[0].video, shown[0].expression.id, frame)
        write_png(path, encode_mask(np.ones((4, 4), bool)))
    with pytest.raises(InputError, match=r"is \(4, 4\), the frames are"):
        draw_overlays.draw(data, shown, [draw_overlays.Drawn("DMVS", tmp_path, {})], 3)


def test_heads_stand_beside_each_other(world: Path, tmp_path: Path) -> None:
    alone, both = tmp_path / "alone.png", tmp_path / "both.png"
    words = ["--data-root", str(world), "--split", "valid_u", "--masks", str(world / "masks")]
    words += ["--metrics", str(world / "metrics.json"), "--num", "2", "--columns", "3"]
    assert draw_overlays.main([*words, "--out", str(alone)]) == 0
    assert draw_overlays.main([*words, "--out", str(both), "--beside", f"again={world}"]) == 0
    with Image.open(alone) as one, Image.open(both) as two:
        assert one.width == two.width and one.height < two.height
