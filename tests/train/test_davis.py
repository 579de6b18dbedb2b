"""The Ref-DAVIS17 protocol: merging, matching, void, and what the original evaluator says."""

import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from cache_schema.host import cli
from cache_schema.host.cli import InputError
from cache_schema.reader import CacheReader
from tests.train.protocol_caches import write_cache, write_head
from train import evaluate
from train.evaluation import jf
from train.evaluation.protocols import davis
from train.predictions import Predictions
from train.records import AnnotatedVideo, ExpressionRef
from train.replay import keep, probabilities

SHIPPED = Path(__file__).parents[1] / "data" / "jf"
GOLDENS = [SHIPPED] + [Path(p) for p in [os.environ.get("DMVS_GOLDENS")] if p]


def _rles(masks: np.ndarray) -> list[dict | None]:
    """(T, H, W) bool."""
    coded = [coco.encode(np.asfortranarray(mask.astype(np.uint8))) for mask in masks]
    return [
        {"size": list(c["size"]), "counts": c["counts"].decode()} if mask.any() else None
        for c, mask in zip(coded, masks, strict=True)
    ]


def _objects(labels: np.ndarray) -> dict[str, list[dict | None]]:
    """(T, H, W) uint8 of ids."""
    return {str(n): _rles(labels == n) for n in np.unique(labels) if n}


def _score(labels: np.ndarray, predicted: np.ndarray) -> davis.SequenceScores:
    truth = davis.SequenceTruth(_objects(labels), size=labels.shape[1:], where="v")
    tally = davis.SequenceTally(truth.num_objects, where="v")
    for t, ids in enumerate(predicted):
        tally.add(truth.frame(t), ids)
    return tally.scores()


@pytest.mark.parametrize("folder", GOLDENS, ids=lambda p: p.name)
def test_merged_probabilities_and_figures_equal_the_original(folder: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(folder / "refdavis_syn.zip") as file:
        file.extractall(tmp_path)
    expected = json.loads((tmp_path / "expected.json").read_text())
    stored = np.load(tmp_path / "object_probs_u8.npz")
    results = []
    for name in (tmp_path / "DAVIS/ImageSets/2017/val.txt").read_text().split():
        folder = tmp_path / "DAVIS/Annotations_unsupervised/480p" / name
        labels = np.stack([np.asarray(Image.open(p)) for p in sorted(folder.iterdir())])
        frames = [f"{t:05d}" for t in range(len(labels))]
        video = AnnotatedVideo(name, frames, [], _objects(labels), labels.shape[1:])
        scores = []
        for annotator in range(4):
            found = stored[f"prob_anno{annotator}_{name}"].astype(np.float32) / 255
            ids = [davis.merge(p, range(1, p.shape[0] + 1)) for p in found]
            for frame, mine in zip(frames, ids, strict=True):
                path = tmp_path / f"results/anno_{annotator}/{name}/{frame}.png"
                np.testing.assert_array_equal(mine, np.asarray(Image.open(path)))
            scores.append(_score(labels, np.stack(ids)))
        results.append(davis.Result(video, scores, [[]] * 4))
    content = davis.metrics(results)
    mean = expected.pop("mean_over_4_annotators")
    assert {k: content[k.removesuffix("-Mean")] for k in mean} == pytest.approx(mean, abs=1e-9)
    for annotator, golden in expected.items():
        figures = content["annotators"][annotator]
        for key in ("J-Mean", "J-Recall", "J-Decay", "F-Mean", "F-Recall", "F-Decay", "J&F-Mean"):
            assert figures[key.removesuffix("-Mean")] == pytest.approx(golden[key], abs=1e-9), key
        for metric in "JF":
            listed = {o: pair[metric] for o, pair in figures["per_object"].items()}
            assert listed == pytest.approx(golden[f"{metric}_per_object"], abs=1e-9)


def test_the_merge_knows_background_threshold_and_ties() -> None:
    probabilities = np.array([[0.49, 0.5, 0.9, 0.9, 0.2], [0.05, 0.4, 0.9, 0.95, 0.3]])[:, None]
    ids = davis.merge(probabilities.astype(np.float32), [4, 7])
    assert ids.tolist() == [[0, 4, 4, 7, 0]] and ids.dtype == np.uint8


def test_matching_forgives_swapped_objects_and_the_strict_score_does_not() -> None:
    labels = np.zeros((3, 40, 60), np.uint8)
    labels[:, 5:15, 5:25], labels[:, 22:35, 30:50] = 1, 2
    swapped = np.choose(labels, [0, 2, 1])
    found = _score(labels, swapped)
    assert (found.matched == 1).all() and (found.strict[0] == 0).all()
    found = _score(labels, labels)
    assert (found.matched == 1).all() and (found.strict == 1).all()


def test_void_counts_for_nobody() -> None:
    labels = np.zeros((2, 40, 60), np.uint8)
    labels[:, 5:15, 5:25], labels[:, 20:40, 30:60] = 1, 255
    predicted = np.where(labels == 255, 1, labels).astype(np.uint8)
    assert (_score(labels, predicted).matched == 1).all()
    predicted[:, 0, 0] = 1
    assert (_score(labels, predicted).matched[0] < 1).all()


def test_only_objects_up_to_the_highest_of_the_first_frame_are_scored() -> None:
    labels = np.zeros((3, 30, 40), np.uint8)
    labels[:, 2:8, 2:8] = 2
    labels[1:, 15:20, 20:30] = 1  # comes later, but below the highest
    labels[2:, 25:28, 5:15] = 3  # comes later
    found = _score(labels, labels)
    assert found.matched.shape == (2, 2, 3) and (found.strict == 1).all()


def test_a_missing_object_is_an_empty_one_and_a_missing_map_scores_zero() -> None:
    labels = np.zeros((3, 30, 40), np.uint8)
    labels[:2, 2:8, 2:8], labels[:, 15:20, 20:30] = 1, 2
    predicted = np.where(labels == 2, 2, 0).astype(np.uint8)
    found = _score(labels, predicted)
    assert found.strict[0].tolist() == [[0, 0, 1], [1, 1, 1]]
    truth = davis.SequenceTruth(_objects(labels), size=(30, 40), where="v")
    tally = davis.SequenceTally(2, where="v")
    tally.add(truth.frame(0), labels[0])
    tally.add(truth.frame(1), None)
    tally.add(truth.frame(2), labels[2])
    assert tally.scores().strict[0].tolist() == [[1, 0, 1], [1, 0, 1]]


def test_more_predicted_than_true_objects_take_the_best() -> None:
    labels = np.zeros((2, 30, 40), np.uint8)
    labels[:, 5:25, 5:25] = 1
    predicted = np.zeros_like(labels)
    predicted[:, 5:10, 5:25], predicted[:, 10:25, 5:25], predicted[:, 1, 30] = 1, 2, 5
    found = _score(labels, predicted)
    assert found.matched.shape == (2, 1, 2)
    assert found.matched[0, 0].tolist() == [0.75, 0.75] and found.strict[0, 0, 0] == 0.25


def test_recall_and_decay() -> None:
    values = np.array([1.0, 0.9, 0.8, 0.6, 0.5, 0.4, 0.2, 0.1])
    mean, recall, decay = davis.statistics(values)
    assert mean == pytest.approx(values.mean()) and recall == 0.5
    # Borders at frames 1, 3, 5 (2.75 and 4.5 and 6.25 rounded to even), 6 and 8.
    assert decay == pytest.approx(values[:3].mean() - values[5:].mean())
    assert davis.statistics(np.array([0.7])) == pytest.approx((0.7, 1.0, 0.0))
    long = np.linspace(1, 0, 400)  # beyond what a byte counts
    assert davis.statistics(long)[2] == pytest.approx(long[:101].mean() - long[299:].mean())


def test_bad_sequences_end_in_a_sentence() -> None:
    labels = np.zeros((2, 9, 9), np.uint8)
    labels[1, 2:5, 2:5] = 1
    with pytest.raises(InputError, match="video v: the first frame shows no object"):
        davis.SequenceTruth(_objects(labels), size=(9, 9), where="v")
    with pytest.raises(InputError, match="object 'dog' is no id of DAVIS"):
        davis.SequenceTruth({"dog": [None]}, size=(9, 9), where="v")
    labels[0, 2:5, 2:5] = 1
    truth = davis.SequenceTruth(_objects(labels), size=(9, 9), where="v")
    tally = davis.SequenceTally(1, where="anno_0/v")
    with pytest.raises(InputError, match="anno_0/v: a map holds the object 21"):
        tally.add(truth.frame(0), np.full((9, 9), 21, np.uint8))
    for expression, ids in (("a", ["1"]), ("3", []), ("3", ["1", "2"]), ("3", ["255"])):
        with pytest.raises(InputError, match=f"expression '{expression}' of video v"):
            davis.place(ExpressionRef("v", expression, "", "", ids, ids))
    assert davis.place(ExpressionRef("v", "6", "", "", ["2"], ["2"])) == (2, 2)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("davis")
    write_head(folder)
    write_cache(folder / "cache", "ref_davis")
    write_cache(folder / "no_truth", "ref_davis", truth=False)
    return folder


def _evaluate(place: Path, out: Path, *more: str, cache: str = "cache") -> int:
    return cli.run(
        evaluate.main,
        [str(place / "config.py"), "--cache", str(place / cache), "--out", str(out)]
        + ["--checkpoint", str(place / "iter_0.pth"), "--device", "cpu", *more],
    )


def test_a_cache_is_scored_as_davis_scores(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert _evaluate(place, tmp_path, "--save-masks", "--controls") == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["num_expressions"] == len(metrics["per_expression"]) == 4 + 8
    assert metrics["controls"]["shuffled"]["J&F_std"] >= 0
    out = capsys.readouterr().out
    for words in ("anno_3", "strict J&F", "shuffled text", "metrics.json"):
        assert words in out
    reader, predictions = CacheReader(place / "cache"), Predictions(tmp_path / "predictions.h5")
    assert predictions.rule == "top1"
    seen = set()
    for video_id in reader.video_ids:
        video = reader.video(video_id)
        kept = []
        for expression_id in video.expression_ids:
            scores, embeds = predictions.get(video_id, expression_id)
            kept.append(embeds[keep(scores, rule="top1", sigma=0.5)])
        size = (video.geometry.height, video.geometry.width)
        truth = davis.SequenceTruth(video.objects(), size=size, where=video_id)
        strict = np.zeros((len(kept), 2, video.num_frames))
        for t, found in enumerate(probabilities(video, kept)):
            for annotator in range(4):
                # The protocol in the plainest words: 0.1 for the background, argmax.
                sure = np.where(found[annotator::4] < 0.5, 0, found[annotator::4])
                ids = np.concatenate([np.full((1, *size), 0.1), sure]).argmax(0)
                name = f"masks/anno_{annotator}/{video_id}/{video.frame_names[t]}.png"
                image = Image.open(tmp_path / name)
                assert image.mode == "P" and image.size == size[::-1]
                np.testing.assert_array_equal(np.asarray(image), ids)
                seen |= set(np.unique(ids))
                frame = truth.frame(t)
                for o, true in enumerate(frame.objects):
                    if o * 4 + annotator < len(kept):
                        outline = frame.outline(ids == o + 1)
                        strict[o * 4 + annotator, :, t] = jf.scores(true, outline)
        for i, values in enumerate(strict):
            entry = metrics["per_expression"][f"{video_id}/{i}"]
            assert (entry["J"], entry["F"]) == pytest.approx(tuple(values.mean(1)), abs=1e-12)
    assert seen == {0, 1, 2}


def test_without_truth_there_are_maps_only(place: Path, tmp_path: Path) -> None:
    assert _evaluate(place, tmp_path, "--save-masks", cache="no_truth") == 0
    assert not (tmp_path / "metrics.json").exists()
    assert len(list((tmp_path / "masks").rglob("*.png"))) == 4 * (4 + 5)


def test_the_rule_can_be_chosen(place: Path, tmp_path: Path) -> None:
    assert _evaluate(place, tmp_path, "--cfg-options", "evaluation.rule=threshold") == 0
    assert Predictions(tmp_path / "predictions.h5").rule == "threshold"


def test_several_sigmas_are_scored_in_one_pass(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    rule = ["--cfg-options", "evaluation.rule=threshold"]
    assert _evaluate(place, tmp_path, "--sigma", "0.3", "0.55", "--controls", *rule) == 0
    assert "sigma 0.55\n" in capsys.readouterr().out
    listed = json.loads((tmp_path / "metrics.json").read_text())["sigmas"]
    for sigma, figures in zip(("0.3", "0.55"), listed, strict=True):
        assert _evaluate(place, tmp_path / sigma, "--sigma", sigma, "--controls", *rule) == 0
        alone = json.loads((tmp_path / sigma / "metrics.json").read_text())
        del alone["run"]
        assert {"sigma": float(sigma), **alone} == figures
    assert listed[0]["J&F"] != listed[1]["J&F"]
