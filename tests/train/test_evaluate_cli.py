"""`python -m train.evaluate` from a cache and a checkpoint to metrics, predictions and masks."""

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from cache_schema.fingerprint import file_sha256
from cache_schema.host import cli
from cache_schema.host.cli import InputError
from cache_schema.reader import CacheReader
from tests import synthetic
from tests.train.protocol_caches import write_cache, write_head
from tests.train.scores import video_scores
from train import evaluate
from train.config import load_config
from train.evaluation.from_cache.contents import pick_rule
from train.evaluation.pngs.files import mask_name
from train.evaluation.protocols.expressions import Truth
from train.predictions import Predictions
from train.provenance import cache_identity, prediction_digest
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


def _figures(out: Path) -> dict:
    """metrics.json without what tells of the run."""
    return _without_run(json.loads((out / "metrics.json").read_text()))


def _without_run(metrics: dict) -> dict:
    return {key: value for key, value in metrics.items() if key != "run"}


@pytest.fixture(scope="module")
def done(place: Path) -> tuple[Path, dict]:
    """Results of a run with everything."""
    out = place / "out"
    assert _run(place, out, "--controls", "--save-masks") == 0
    return out, json.loads((out / "metrics.json").read_text())


def test_metrics_have_the_promised_keys(done: tuple[Path, dict]) -> None:
    _, metrics = done
    assert set(metrics) == FIGURES | {
        "per_tag", "N-acc", "T-acc", "per_expression", "controls", "run",
    }  # fmt: skip
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
            masks = np.stack(list(replay(video, [kept])))[:, 0]
            region, boundary = video_scores(true[:, i], masks)
            entry = metrics["per_expression"][f"{video_id}/{expression_id}"]
            assert entry["J"] == pytest.approx(region.mean(), abs=1e-3)
            assert entry["F"] == pytest.approx(boundary.mean(), abs=1e-2)
            for frame, mask in zip(video.frame_names, masks, strict=True):
                path = out / "masks" / mask_name(video_id, expression_id, frame)
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
    assert _figures(tmp_path) == _without_run(done[1])
    assert not (tmp_path / "masks").exists()


def test_predictions_are_used_again_while_they_would_be_the_same(
    place: Path, done: tuple[Path, dict], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    stored = tmp_path / "predictions.h5"

    def run(*more: str) -> bool:
        """Whether stored predictions were used."""
        assert _run(place, tmp_path, *more) == 0
        return "is used again" in capsys.readouterr().out

    assert not run()
    before, written = stored.read_bytes(), stored.stat()
    assert run("--controls")
    assert _figures(tmp_path) == _without_run(done[1])
    assert stored.stat().st_mtime_ns == written.st_mtime_ns
    assert run("--sigma", "0.3") and Predictions(stored).sigma == 0.3
    assert run() and Predictions(stored).sigma == 0.5
    checkpoint = torch.load(place / "iter_0.pth", weights_only=True)
    for values in checkpoint["state_dict"].values():
        values += 0.5
    torch.save(checkpoint, tmp_path / "iter_1.pth")
    for more in (
        ["--shuffle-frames"],
        ["--cfg-options", "evaluation.rule=top1"],
        ["--checkpoint", str(tmp_path)],
    ):
        assert not run(*more) and run(*more)
    stored.write_bytes(before[: len(before) // 2])
    assert not run() and run()


def test_predictions_of_a_head_of_ones_own_are_made_anew(place: Path) -> None:
    reader, config = CacheReader(place / "cache"), load_config(place / "config.py")
    assert prediction_digest(reader, config, "ab", torch.device("cpu"))
    config.model.type = "train.heads.dmvs:DMVS"
    assert prediction_digest(reader, config, "ab", torch.device("cpu")) == ""


def test_another_sigma_is_scored_without_the_head(
    place: Path, done: tuple[Path, dict], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    stored = str(done[0] / "predictions.h5")
    assert _run(place, tmp_path / "same", source=stored) == 0
    same = _without_run(done[1])
    del same["controls"]
    assert _figures(tmp_path / "same") == same
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
    replayed, anew = (_figures(tmp_path / name) for name in ("replayed", "anew"))
    del anew["controls"]
    assert replayed == anew and anew["J"] != done[1]["J"]
    masks = sorted((tmp_path / "anew" / "masks").rglob("*.png"))
    assert len(masks) == 4 * (4 + 6 + 3)
    for path in masks:
        other = tmp_path / "replayed" / path.relative_to(tmp_path / "anew")
        assert path.read_bytes() == other.read_bytes()


def test_several_sigmas_are_scored_in_one_pass(
    place: Path, done: tuple[Path, dict], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    sigmas = ["--sigma", "0.55", "0.3", "0.5", "0.3"]
    assert _run(place, tmp_path / "all", *sigmas, "--controls") == 0
    table = capsys.readouterr().out
    content = _figures(tmp_path / "all")
    listed = content.pop("sigmas")
    assert [figures.pop("sigma") for figures in listed] == [0.55, 0.3, 0.5]
    assert content == listed[0] and listed[2] == _without_run(done[1])
    for sigma, figures in zip(("0.55", "0.3", "0.5"), listed, strict=True):
        alone = tmp_path / sigma
        assert _run(place, alone, "--sigma", sigma, "--controls") == 0
        assert _figures(alone) == figures
        row = next(line for line in table.splitlines() if line.startswith(f"sigma {sigma} "))
        cells = row.split()
        assert cells[2] == f"{100 * figures['J&F']:.1f}"
        assert cells[-2:] == [f"{100 * figures[key]:.1f}" for key in ("N-acc", "T-acc")]
        assert f"shuffled text, sigma {sigma}" in table
    assert table.count("best choice") == 1
    assert listed[0]["J&F"] != listed[1]["J&F"]
    assert Predictions(tmp_path / "all" / "predictions.h5").sigma == 0.55

    stored = str(done[0] / "predictions.h5")
    assert _run(place, tmp_path / "again", *sigmas, "--save-masks", source=stored) == 0
    again = _figures(tmp_path / "again")["sigmas"]
    for figures, other in zip(again, listed, strict=True):
        del figures["sigma"], other["controls"]
        assert figures == other
    assert _run(place, tmp_path / "first", "--sigma", "0.55", "--save-masks", source=stored) == 0
    for path in (tmp_path / "first" / "masks").rglob("*.png"):
        other = tmp_path / "again" / path.relative_to(tmp_path / "first")
        assert path.read_bytes() == other.read_bytes()


def test_the_best_queries_are_kept_from_stored_predictions(
    place: Path, done: tuple[Path, dict], tmp_path: Path
) -> None:
    stored = str(done[0] / "predictions.h5")
    found = {}
    for number in ("1", "2", "4"):
        out = tmp_path / number
        assert _run(place, out, "--keep", number, "--sigma", "0.3", source=stored) == 0
        found[number] = _figures(out)
    assert _run(place, tmp_path / "all", "--sigma", "0.3", source=stored) == 0
    assert found["4"] == _figures(tmp_path / "all")  # the head has four
    assert len({figures["J&F"] for figures in found.values()}) == 3
    # One of those above 0 is the best one, which the rule top1 takes.
    top = ["--cfg-options", "evaluation.rule=top1"]
    assert _run(place, tmp_path / "top1", *top) == 0
    assert _run(place, tmp_path / "best", "--keep", "1", "--sigma", "0", source=stored) == 0
    assert _figures(tmp_path / "best") == _figures(tmp_path / "top1")


def test_metrics_tell_of_the_run(place: Path, done: tuple[Path, dict], tmp_path: Path) -> None:
    run = done[1]["run"]
    assert run["config"]["model"]["num_motion_queries"] == 4
    assert (run["seed"], run["rule"], run["sigma"], run["keep"]) == (7, "threshold", [0.5], None)
    assert run["checkpoint"] == file_sha256(place / "iter_0.pth")
    assert run["caches"] == {
        "training": [{"fingerprint": "ab" * 32, "dataset": "synthetic", "split": "train"}],
        "evaluation": [cache_identity(CacheReader(place / "cache"))],
    }
    assert run["seconds"] > 0 and run["peak_memory_mb"] > 0 and run["device"] == "cpu"
    stored = str(done[0] / "predictions.h5")
    assert _run(place, tmp_path, "--sigma", "0.3", "--keep", "2", source=stored) == 0
    again = json.loads((tmp_path / "metrics.json").read_text())["run"]
    assert (again["sigma"], again["keep"]) == ([0.3], 2)
    for key in ("seed", "caches", "checkpoint", "config"):
        assert again[key] == run[key]


def test_a_cache_of_other_models_is_refused(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert _run(place, tmp_path, cache="no_truth") == 2
    said = capsys.readouterr().err
    assert "segmenter.seed: 0 != 1" in said and "--allow-other-models" in said
    assert not (tmp_path / "predictions.h5").exists()
    assert _run(place, tmp_path, "--allow-other-models", cache="no_truth") == 0
    said = capsys.readouterr().err
    assert "warning: checkpoint" in said and "segmenter.seed: 0 != 1" in said
    synthetic.write_cache(place / "int8", num_videos=1, codec="int8")
    assert _run(place, tmp_path, cache="int8") == 0  # a codec may differ
    assert "warning" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "training", [None, {}, {"caches": []}, {"caches": [{"fingerprint": "x"}]}, {"caches": 3}]
)
def test_a_checkpoint_that_does_not_tell_its_models_needs_the_option(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture, training: object
) -> None:
    checkpoint = torch.load(place / "iter_0.pth", weights_only=True)
    checkpoint["meta"]["training"] = training
    torch.save(checkpoint, tmp_path / "iter_0.pth")
    given = ["--checkpoint", str(tmp_path)]
    assert _run(place, tmp_path, *given) == 2
    said = capsys.readouterr().err
    assert "says nothing about the models" in said and "--allow-other-models" in said
    assert _run(place, tmp_path, *given, "--allow-other-models") == 0
    assert "warning: checkpoint" in capsys.readouterr().err
    run = json.loads((tmp_path / "metrics.json").read_text())["run"]
    assert run["seed"] is None and run["caches"]["training"] == []


@pytest.mark.parametrize(("one_object", "rule"), [(False, "threshold"), (True, "top1")])
def test_the_rule_is_that_of_the_data_set_unless_it_is_given(
    place: Path, one_object: bool, rule: str
) -> None:
    reader = CacheReader(place / "cache")
    reader.facts = replace(reader.facts, one_object=one_object)
    assert pick_rule(load_config(place / "config.py"), reader) == rule
    for given in ("threshold", "top1"):
        config = load_config(place / "config.py", {"evaluation.rule": given})
        assert pick_rule(config, reader) == given


def test_no_rule_is_guessed(place: Path) -> None:
    reader = CacheReader(place / "cache")
    reader.facts = replace(reader.facts, one_object=None)
    with pytest.raises(InputError, match="cache does not say whether .* set it to 'top1'"):
        pick_rule(load_config(place / "config.py"), reader)
    config = load_config(place / "config.py", {"evaluation.rule": "top1"})
    assert pick_rule(config, reader) == "top1"


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


def test_a_page_of_the_evaluation(
    place: Path, done: tuple[Path, dict], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert _run(place, tmp_path, "--report", "--keep", "1") == 0
    page = (tmp_path / "report.html").read_text("utf-8")
    content = json.loads(page.split('id="content">')[1].split("</script>")[0])
    assert content["heads"] == ["DMVS"] and len(content["expressions"]) == 12
    assert content["videos"][0]["frames"] == [None] * 4
    assert f"{_figures(tmp_path)['J&F']}" in page
    capsys.readouterr()
    refused = ["--report", "--allow-other-models"]
    assert _run(place, tmp_path / "none", *refused, cache="no_truth") == 2
    assert "no_truth is not: leave it out" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


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
    allowed = ["--allow-other-models"]  # it is synthetic with another seed
    assert _run(place, tmp_path, "--save-masks", "--controls", *allowed, cache="no_truth") == 0
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
    assert "from 0 to 1" in error("--sigma", "0.5", "70")
    assert "1 or more" in error("--keep", "0")
    assert "model.hidden" in error("--cfg-options", "model.hidden=64")
    stored = str(done[0] / "predictions.h5")
    assert "was predicted from the cache" in error(source=stored, cache="no_truth")
    assert "no such predictions file" in error(source=str(tmp_path / "absent.h5"))
    (tmp_path / "file").write_text("")
    assert "cannot be written" in error("--out", str(tmp_path / "file" / "below"))
    assert not (tmp_path / "out" / "metrics.json").exists()


def test_shuffling_needs_a_second_video(place: Path, capsys: pytest.CaptureFixture) -> None:
    synthetic.write_cache(place / "single", num_videos=1)
    assert _run(place, place / "single_out", "--controls", cache="single") == 0
    assert "with shuffled text is left out: no other video" in capsys.readouterr().out
    metrics = json.loads((place / "single_out" / "metrics.json").read_text())
    assert set(metrics["controls"]) == {"every_object", "nothing", "best_choice"}


def test_a_cache_of_other_channels_is_refused(place: Path, capsys: pytest.CaptureFixture) -> None:
    synthetic.write_cache(place / "wide", num_videos=1, C=20)  # whose fingerprint does not say so
    assert _run(place, place / "wide_out", cache="wide") == 2
    assert "model.mask_dim is 16, but the cache was extracted with 20" in capsys.readouterr().err
