"""The MeViS protocol against the original evaluator, and what metrics.json and the table hold."""

import json
import os
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco

from cache_schema.host.cli import InputError
from train.evaluation import report
from train.evaluation.jf import Outline
from train.evaluation.pngs import files
from train.evaluation.pngs.png import encode_mask
from train.evaluation.protocols.expressions import (
    Score,
    Tally,
    Truth,
    accuracies,
    average,
    metrics,
    summary,
)
from train.records import ExpressionRef

SHIPPED = Path(__file__).parents[1] / "data" / "jf"
GOLDENS = [SHIPPED] + [Path(p) for p in [os.environ.get("DMVS_GOLDENS")] if p]


def rle(mask: np.ndarray) -> dict:
    coded = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(mask.shape), "counts": coded["counts"].decode()}


@pytest.mark.parametrize("folder", GOLDENS, ids=lambda p: p.name)
def test_every_expression_scores_as_the_original(folder: Path) -> None:
    with zipfile.ZipFile(folder / "mevis_syn.zip") as file:
        expected, meta, masks = (
            json.loads(file.read(f"{name}.json"))
            for name in ("expected", "meta_expressions", "mask_dict")
        )
        pngs = {name: file.read(name) for name in file.namelist() if name.endswith(".png")}
    scores = {}
    for video_id, video in meta["videos"].items():
        ids = [[str(a) for a in e["anno_id"]] for e in video["expressions"].values()]
        objects = {a: masks[a] for of_expression in ids for a in of_expression}
        size = next(tuple(m["size"]) for of_object in objects.values() for m in of_object if m)
        truth, tally = Truth(objects, ids, size=size, where=video_id), Tally([True] * len(ids))
        for t, frame in enumerate(video["frames"]):
            # A video without any file scores 0: the original's rule, outside of the protocol.
            coded = [pngs.get(f"pred/{video_id}/{e}/{frame}.png") for e in video["expressions"]]
            if None in coded:
                break
            images = [cv2.imdecode(np.frombuffer(c, np.uint8), 0) > 0 for c in coded]
            tally.add(truth.outlines(t), [Outline(image) for image in images])
        else:
            for e, score in zip(video["expressions"], tally.scores(), strict=True):
                scores[f"{video_id}_{e}"] = score
    assert len(scores) == 10
    for key, (region, boundary) in expected["per_expression"].items():
        score = scores.setdefault(key, Score(0.0, 0.0))
        assert score.region == pytest.approx(region, abs=1e-12)
        assert score.boundary == pytest.approx(boundary, abs=1e-12)
    whole = average(scores.values())
    for key in ("J", "F", "J&F"):
        assert whole[key] == pytest.approx(expected[key], abs=1e-12)


def test_truth_is_the_union_and_empty_without_target() -> None:
    left, right = np.zeros((2, 8, 9), bool)
    left[:, :2], right[:, 5:] = True, True
    objects = {"1": [rle(left), None], "2": [rle(right), rle(right)]}
    truth = Truth(objects, [["1"], ["1", "2"], []], size=(8, 9), where="v")
    np.testing.assert_array_equal(truth.frame(0), [left, left | right, left & False])
    np.testing.assert_array_equal(truth.frame(1), [left & False, right, left & False])


def test_truth_refuses_unknown_objects_and_other_sizes() -> None:
    with pytest.raises(InputError, match="video v: expressions mean the objects 7"):
        Truth({}, [["7"]], size=(8, 9), where="v")
    truth = Truth({"7": [rle(np.ones((4, 4)))]}, [["7"]], size=(8, 9), where="v")
    with pytest.raises(InputError, match=r"video v: .*object 7 in frame 0 has the size \[4, 4\]"):
        truth.frame(0)
    broken = {"7": [{"size": [8, 9], "counts": "0"}]}
    with pytest.raises(InputError, match="object 7 in frame 0 cannot be decoded: its runs do not"):
        Truth(broken, [["7"]], size=(8, 9), where="v").outlines(0)


def test_frames_then_expressions_are_averaged() -> None:
    on, off = Outline(np.ones((4, 4), bool)), Outline(np.zeros((4, 4), bool))
    tally = Tally([True, False])
    for truth, prediction in ((on, on), (off, off), (on, off), (on, off)):
        tally.add([truth, truth], [prediction, None])
    # A full mask has no boundary; what is missing scores 0.
    assert tally.scores() == [Score(0.5, 1.0), Score(0.0, 0.0, False, False, False)]
    tally.skip()
    assert tally.scores()[0] == Score(0.4, 0.8, True, True, False)


def test_truths_of_one_meaning_are_prepared_once() -> None:
    mask = np.zeros((1, 8, 9), bool)
    mask[:, :2] = True
    truth = Truth({"1": [rle(mask[0])], "2": [None]}, [["1"], ["2", "1"], ["1"], []],
                  size=(8, 9), where="v")  # fmt: skip
    outlines = truth.outlines(0)
    assert outlines[0] is outlines[2] and outlines[0] is not outlines[1]
    assert [outline.area for outline in outlines] == [18, 18, 18, 0]


def test_no_target_and_target_accuracy() -> None:
    pairs = [(False, False), (False, True), (False, False), (True, True), (True, False)]
    found = [Score(1.0, 1.0, target, seen) for target, seen in pairs]
    assert accuracies(found) == {"N-acc": pytest.approx(2 / 3), "T-acc": 0.5}
    missing = Score(0.0, 0.0, target=False, found=False, complete=False)
    assert accuracies([found[0], missing])["N-acc"] == 0.5
    assert accuracies(found[3:]) == {"N-acc": None, "T-acc": 0.5}
    assert accuracies([]) == {"N-acc": None, "T-acc": None}


def test_summary_counts_tags_in_a_fixed_order_and_skips_the_untagged() -> None:
    scores = {"a/0": Score(1.0, 0.5), "a/1": Score(0.0, 0.0), "b/0": Score(0.5, 0.5)}
    tags = {"a/0": "irreversible", "a/1": "", "b/0": "static"}
    whole = summary(scores, tags)
    assert (whole["J"], whole["num_expressions"]) == (0.5, 3)
    assert list(whole["per_tag"]) == ["static", "irreversible"]
    assert whole["per_tag"]["irreversible"] == {
        "J": 1.0, "F": 0.5, "J&F": 0.75, "num_expressions": 1,
    }  # fmt: skip


def test_metrics_and_table(tmp_path: Path) -> None:
    expressions = [
        ExpressionRef("a", str(i), text, "static", [], []) for i, text in enumerate(("one", "two"))
    ]
    scores = {"a/0": Score(1.0, 0.5), "a/1": Score(0.5, 0.0)}
    rounds = [{key: Score(s, s) for key in scores} for s in (0.1, 0.3)]
    best = [{key: Score(1.0, 1.0) for key in scores}]
    content = metrics(expressions, scores, {"shuffled": rounds, "best_choice": best})
    assert set(content) == {
        "J", "F", "J&F", "num_expressions", "per_tag", "N-acc", "T-acc", "per_expression",
        "controls",
    }  # fmt: skip
    assert content["per_expression"]["a/0"] == {
        "J": 1.0, "F": 0.5, "J&F": 0.75, "tag": "static", "text": "one",
    }  # fmt: skip
    shuffled = content["controls"]["shuffled"]
    assert shuffled["J&F"] == pytest.approx(0.2) and shuffled["J&F_std"] == pytest.approx(0.1)
    assert shuffled["per_tag"]["static"]["J"] == pytest.approx(0.2)
    assert shuffled["num_expressions"] == shuffled["per_tag"]["static"]["num_expressions"] == 2

    content["run"] = {"config": {"model": {"type": "select"}}}
    lines = report.table(content).splitlines()
    assert lines[0].split() == ["J&F", "static", "J", "F"]
    assert lines[2].split() == ["select", "50.0", "50.0", "75.0", "25.0"]
    assert lines[-2].split() == ["expressions", "2", "2"]
    assert lines[-1] == report.share_of_best(content)
    assert report.share_of_best(content) == "select reaches 50% of the best choice (static 50%)."
    assert report.share_of_best({**content, "controls": {}}) is None
    names = [{"config": {"model": {}}}, {"config": {"model": {"type": "a.b:Mine"}}}, {"config": {}}]
    assert [report.head_name({"run": run}) for run in names] == ["DMVS", "Mine", "predictions"]

    assert report.accuracy_lines(content) == ""
    said = report.accuracy_lines({"N-acc": 0.5, "T-acc": 1.0})
    assert "N-acc 50.0%" in said and "T-acc 100.0%" in said

    report.write_metrics(tmp_path / "metrics.json", content)
    assert json.loads((tmp_path / "metrics.json").read_text()) == content
    with pytest.raises(InputError, match="cannot be written"):
        report.write_metrics(tmp_path / "metrics.json" / "x.json", content)


def test_masks_on_disk_cannot_leave_their_folder(tmp_path: Path) -> None:
    mask = np.eye(7, 9, dtype=bool)
    plain = tmp_path / files.mask_name("vid_1", "0", "00000")
    assert plain == tmp_path / "vid_1" / "0" / "00000.png"
    for hostile in ("../../x", "..", "/etc", "a/b", "a\\b", ".hidden", "a%2Fb"):
        path = tmp_path / files.mask_name(hostile, hostile, hostile)
        assert path.resolve().parents[2] == tmp_path.resolve() and path != plain
    files.write_png(plain, encode_mask(mask))
    np.testing.assert_array_equal(files.read_mask(plain), mask)
    assert set(np.unique(cv2.imread(str(plain), cv2.IMREAD_UNCHANGED))) == {0, 255}


def test_missing_and_broken_masks_are_named(tmp_path: Path) -> None:
    path = tmp_path / "m.png"
    with pytest.raises(InputError, match="m.png cannot be read"):
        files.read_mask(path)
    for content in (b"", b"no image"):
        path.write_bytes(content)
        with pytest.raises(InputError, match="m.png is not usable"):
            files.read_mask(path)
    with pytest.raises(InputError, match="cannot be written"):
        files.write_png(path / "below" / "a.png", b"")
