"""`python -m train.evaluate` from a cache and a checkpoint to metrics, predictions and masks."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from cache_schema import cli
from cache_schema.reader import CacheReader
from tests import synthetic
from tests.train.protocol_caches import write_cache, write_head
from train import evaluate
from train.config import load_config
from train.evaluation import jf, pngs
from train.evaluation.mevis import Truth
from train.predictions import Predictions
from train.replay import keep, replay

FIGURES = {"J", "F", "J&F", "num_expressions"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with cache, cache without truth, config and the checkpoint of an untrained head."""
    place = tmp_path_factory.mktemp("evaluate")
    write_head(place)
    videos = synthetic.write_cache(place / "cache", num_videos=3, num_frames=(4, 6, 3))
    with synthetic.open_writer(place / "no_truth", seed=1) as writer:
        for video in videos:
            video.objects = {}
            synthetic.write_video(writer, video)
    with synthetic.open_writer(place / "no_text", seed=2) as writer:
        videos[0].expressions = []
        synthetic.write_video(writer, videos[0])
    return place


def _run(place: Path, out: Path, *more: str, cache: str = "cache", source: str = "") -> int:
    trained = ["--checkpoint", str(place / "iter_0.pth")]
    given = ["--from-predictions", source] if source else trained
    return cli.run(
        evaluate.main,
        [str(place / "config.py"), "--cache", str(place / cache), "--out", str(out), *given, *more]
        + ["--device", "cpu"],
    )


@pytest.fixture(scope="module")
def done(place: Path) -> tuple[Path, dict]:
    """Results of a run with everything."""
    out = place / "out"
    assert _run(place, out, "--controls", "--save-masks") == 0
    return out, json.loads((out / "metrics.json").read_text())


def test_metrics_have_the_promised_keys(done: tuple[Path, dict]) -> None:
    _, metrics = done
    assert set(metrics) == FIGURES | {"per_tag", "N-acc", "T-acc", "per_expression", "controls"}
    assert metrics["num_expressions"] == len(metrics["per_expression"]) == 12
    assert set(metrics["controls"]) == {"shuffled", "every_object", "nothing", "best_choice"}
    for figures in (metrics, *metrics["controls"].values()):
        assert FIGURES | {"per_tag"} <= set(figures)
        assert list(figures["per_tag"]) == ["static", "reversible", "irreversible"]
        for part in (figures, *figures["per_tag"].values()):
            assert set(part) >= FIGURES
            assert 0 <= part["J"] <= 1 and 0 <= part["F"] <= 1
            assert part["J&F"] == pytest.approx((part["J"] + part["F"]) / 2)
        counts = [part["num_expressions"] for part in figures["per_tag"].values()]
        assert sum(counts) == figures["num_expressions"] == 12
    for entry in metrics["per_expression"].values():
        assert set(entry) == {"J", "F", "J&F", "tag", "text"}
    first = metrics["per_expression"]["video000/1"]
    assert (first["tag"], first["text"]) == ("reversible", "the blue box turning slowly")
    assert metrics["J"] == pytest.approx(
        np.mean([entry["J"] for entry in metrics["per_expression"].values()])
    )


def test_scores_are_those_of_the_replayed_masks(place: Path, done: tuple[Path, dict]) -> None:
    out, metrics = done
    reader, predictions = CacheReader(place / "cache"), Predictions(out / "predictions.h5")
    some = 0
    for video_id in reader.video_ids:
        video = reader.video(video_id)
        ids = [video.expression(e).annotation_ids for e in video.expression_ids]
        size = (video.geometry.height, video.geometry.width)
        truth = Truth(video.objects(), ids, size=size, where=video_id)
        true = np.stack([truth.frame(t) for t in range(video.num_frames)])  # (T, E, H, W)
        for i, expression_id in enumerate(video.expression_ids):
            scores, embeds = predictions.get(video_id, expression_id)
            kept = embeds[keep(scores, rule="threshold", sigma=0.5)]
            some += len(kept)
            masks = np.stack(list(replay(video, [kept], codec=reader.codec)))[:, 0]
            region, boundary = jf.video_scores(true[:, i], masks)
            entry = metrics["per_expression"][f"{video_id}/{expression_id}"]
            assert entry["J"] == pytest.approx(region.mean(), abs=1e-3)
            assert entry["F"] == pytest.approx(boundary.mean(), abs=1e-2)
            for frame, mask in zip(video.frame_names, masks, strict=True):
                path = pngs.mask_path(out / "masks", video_id, expression_id, frame)
                image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
                assert image.shape == size and set(np.unique(image)) <= {0, 255}
                assert ((image > 0) != mask).mean() < 2e-3
    assert 0 < some < 48  # the test would say little if all or no queries were kept


def test_controls_are_what_they_claim(done: tuple[Path, dict]) -> None:
    controls = done[1]["controls"]
    # The truth of 3 of the 12 expressions is empty, which "nothing" gets right.
    assert controls["nothing"]["J"] >= 3 / 12
    assert controls["nothing"]["per_tag"]["reversible"]["J"] == 0.0
    for name in ("nothing", "every_object"):
        assert controls["best_choice"]["J"] >= controls[name]["J"]
    assert controls["shuffled"]["J&F_std"] >= 0
    assert controls["shuffled"]["J&F"] != done[1]["J&F"]


def test_a_second_run_says_the_same(place: Path, done: tuple[Path, dict], tmp_path: Path) -> None:
    assert _run(place, tmp_path, "--controls") == 0
    assert json.loads((tmp_path / "metrics.json").read_text()) == done[1]
    assert not (tmp_path / "masks").exists()


def test_another_sigma_is_scored_without_the_head(
    place: Path, done: tuple[Path, dict], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    stored = str(done[0] / "predictions.h5")
    assert _run(place, tmp_path / "same", source=stored) == 0
    same = json.loads((tmp_path / "same" / "metrics.json").read_text())
    assert same == {key: value for key, value in done[1].items() if key != "controls"}
    assert _run(place, tmp_path / "strict", "--sigma", "1", "--controls", source=stored) == 0
    strict = json.loads((tmp_path / "strict" / "metrics.json").read_text())
    assert strict["J&F"] == strict["controls"]["nothing"]["J&F"]
    assert set(strict["controls"]) == {"every_object", "nothing", "best_choice"}
    assert "shuffled text needs the head" in capsys.readouterr().out


@pytest.mark.parametrize("sigma", ["0.3", "0.55"])
def test_a_replay_at_another_sigma_is_a_new_evaluation_to_the_bit(
    place: Path, done: tuple[Path, dict], tmp_path: Path, sigma: str
) -> None:
    stored = str(done[0] / "predictions.h5")  # of sigma 0.5
    again = ["--sigma", sigma, "--save-masks"]
    assert _run(place, tmp_path / "replayed", *again, source=stored) == 0
    assert _run(place, tmp_path / "anew", *again, "--controls") == 0
    replayed, anew = (
        json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("replayed", "anew")
    )
    del anew["controls"]
    assert replayed == anew and anew["J"] != done[1]["J"]
    masks = sorted((tmp_path / "anew" / "masks").rglob("*.png"))
    assert len(masks) == 4 * (4 + 6 + 3)
    for path in masks:
        other = tmp_path / "replayed" / path.relative_to(tmp_path / "anew")
        assert path.read_bytes() == other.read_bytes()


@pytest.mark.parametrize(
    ("dataset", "rule"),
    [("mevis", "threshold"), ("ref_youtube_vos", "top1"), ("ref_davis", "top1"),
     ("refcoco", "top1"), ("folder", "threshold")],
)  # fmt: skip
def test_the_rule_is_that_of_the_data_set_unless_it_is_given(
    place: Path, dataset: str, rule: str
) -> None:
    config = load_config(place / "config.py")
    assert evaluate.pick_rule(config, dataset) == rule
    for given in ("threshold", "top1"):
        config = load_config(place / "config.py", {"evaluation.rule": given})
        assert evaluate.pick_rule(config, dataset) == given


def test_ref_youtube_vos_is_scored_where_its_objects_are(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    write_cache(tmp_path / "known", "ref_youtube_vos")
    assert _run(place, tmp_path / "out", "--controls", cache=str(tmp_path / "known")) == 0
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["num_expressions"] == 12 and "best_choice" in metrics["controls"]
    assert Predictions(tmp_path / "out" / "predictions.h5").rule == "top1"
    write_cache(tmp_path / "secret", "ref_youtube_vos", truth=False)
    assert _run(place, tmp_path / "none", "--save-masks", cache=str(tmp_path / "secret")) == 0
    assert "no ground truth: 12 expressions" in capsys.readouterr().out
    assert not (tmp_path / "none" / "metrics.json").exists()
    assert len(list((tmp_path / "none" / "masks").rglob("*.png"))) == 4 * 4 + 8 * 5


def test_the_table_is_printed(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert _run(place, tmp_path, "--controls") == 0
    out = capsys.readouterr().out
    for words in ("DMVS", "shuffled text", "every object", "nothing", "best choice",
                  "irreversible", "% of the best choice", "metrics.json"):  # fmt: skip
        assert words in out


def test_top1_keeps_one_query(place: Path, tmp_path: Path) -> None:
    assert _run(place, tmp_path, "--cfg-options", "evaluation.rule=top1") == 0
    assert Predictions(tmp_path / "predictions.h5").rule == "top1"


def test_without_ground_truth_there_are_masks_and_a_sentence(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert _run(place, tmp_path, "--save-masks", "--controls", cache="no_truth") == 0
    assert "no ground truth: 12 expressions were predicted" in capsys.readouterr().out
    assert len(list((tmp_path / "masks").rglob("*.png"))) == 4 * (4 + 6 + 3)
    assert (tmp_path / "predictions.h5").is_file()
    assert not (tmp_path / "metrics.json").exists()


def test_a_work_folder_stands_for_its_latest_checkpoint(
    place: Path, done: tuple[Path, dict], tmp_path: Path
) -> None:
    assert _run(place, tmp_path, "--checkpoint", str(place)) == 0
    again = json.loads((tmp_path / "metrics.json").read_text())
    assert again["per_expression"] == done[1]["per_expression"]


def test_bad_input_ends_in_one_sentence(
    place: Path, done: tuple[Path, dict], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    def error(*more: str, **how: str) -> str:
        assert _run(place, tmp_path / "out", *more, **how) == 2
        said = capsys.readouterr().err.splitlines()[-1]
        assert said.startswith("error: ")
        return said

    assert "absent" in error(cache="absent")
    assert "does not exist" in error("--checkpoint", str(tmp_path / "absent.pth"))
    assert "does not fit" in error("--cfg-options", "model.feedforward_dim=64")
    assert "no expressions" in error(cache="no_text")
    assert "from 0 to 1" in error("--sigma", "70")
    assert "model.hidden" in error("--cfg-options", "model.hidden=64")
    stored = str(done[0] / "predictions.h5")
    assert "was predicted from the cache" in error(source=stored, cache="no_truth")
    assert "no such predictions file" in error(source=str(tmp_path / "absent.h5"))
    (tmp_path / "file").write_text("")
    assert "cannot be written" in error("--out", str(tmp_path / "file" / "below"))
    assert not (tmp_path / "out" / "metrics.json").exists()


def test_shuffling_needs_a_second_video(place: Path, capsys: pytest.CaptureFixture) -> None:
    synthetic.write_cache(place / "single", num_videos=1)
    assert _run(place, place / "single_out", "--controls", cache="single") == 2
    assert "leave --controls out" in capsys.readouterr().err


def test_a_cache_of_other_channels_is_refused(place: Path, capsys: pytest.CaptureFixture) -> None:
    synthetic.write_cache(place / "wide", num_videos=1, C=20)
    assert _run(place, place / "wide_out", cache="wide") == 2
    assert "model.hidden_dim is 16" in capsys.readouterr().err
