"""Every data set in its own layout through the whole of it, by the command lines."""

import json
import zipfile
from pathlib import Path

import pytest

import extract.__main__
import train.__main__
from cache_schema.host import cli
from cache_schema.reader import CacheReader
from scripts import score, submit
from tests import datasets_standins as standins
from train import evaluate
from train.predictions import Predictions

CONFIGS = Path(__file__).parents[2]
EXTRACT, TRAIN = CONFIGS / "extract/configs/demo.py", CONFIGS / "train/configs/demo.py"
QUICK = ["train.max_iters=2", "train.batch_size=2", "data.num_workers=0", "model.num_layers=1"]


def _run(main, *arguments: str | Path) -> None:
    assert cli.run(main, [str(a) for a in arguments]) == 0


def _extract(root: Path, dataset: str, split: str, out: Path, *options: str) -> Path:
    _run(
        extract.__main__.main, EXTRACT, "--data-root", root, "--split", split, "--out", out,
        "--weights", "random", "--device", "cpu",
        "--cfg-options", f"dataset={dataset}", "clips.num=1", "clips.frames=3", *options,
    )  # fmt: skip
    return out


def _train(out: Path, *caches: Path, options: tuple[str, ...] = ()) -> Path:
    _run(
        train.__main__.main, TRAIN, "--cache", *caches, "--work-dir", out, "--device", "cpu",
        "--cfg-options", *QUICK, *options,
    )  # fmt: skip
    return out


@pytest.mark.parametrize("dataset", ["mevis", "ref_youtube_vos", "ref_davis"])
def test_from_files_on_disk_to_a_submission(tmp_path: Path, dataset: str) -> None:
    root, scored, secret = tmp_path / "data", tmp_path / "scored", tmp_path / "secret"
    if dataset == "mevis":
        standins.make_mevis(root, v2=True)
        splits = {"learn": "train", "known": "valid_u", "secret": "valid"}
    elif dataset == "ref_youtube_vos":
        standins.make_ref_youtube_vos(root)
        splits = {"learn": "train", "known": "train", "secret": "valid"}
    else:
        standins.make_ref_davis(root, raw=True)
        splits = {"learn": "train", "known": "valid", "secret": "valid"}
    caches = {
        split: _extract(root, dataset, split, tmp_path / split) for split in set(splits.values())
    }
    run = _train(tmp_path / "run", caches[splits["learn"]])
    head = ["--checkpoint", run, "--device", "cpu", "--cfg-options", *QUICK]
    known, hidden = caches[splits["known"]], caches[splits["secret"]]
    _run(evaluate.main, TRAIN, "--cache", known, "--out", scored, "--save-masks", *head)
    _run(evaluate.main, TRAIN, "--cache", hidden, "--out", secret, *head)

    # The masks on disk score as the replayed ones, against the annotations of the data set.
    again = tmp_path / "again.json"
    _run(
        score.main, "--dataset", dataset, "--root", root, "--split", splits["known"],
        "--pred", scored / "masks", "--out", again, "--strict", "--workers", "1",
    )  # fmt: skip
    found, expected = (json.loads(p.read_text()) for p in (again, scored / "metrics.json"))
    for key in ("J", "F", "J&F", "num_expressions"):
        assert found[key] == pytest.approx(expected[key], abs=1e-12)
    assert found["per_expression"].keys() == expected["per_expression"].keys()
    stored = secret / "predictions.h5"
    assert Predictions(stored).rule == ("threshold" if dataset == "mevis" else "top1")

    out = tmp_path / "submission.zip"
    _run(submit.main, "--cache", hidden, "--predictions", stored, "--out", out, "--device", "cpu")
    described = ["--dataset", dataset, "--root", root, "--split", splits["secret"]]
    _run(submit.main, "--check", out, *described, "--workers", "1")
    with zipfile.ZipFile(out) as file:
        top = {name.split("/")[0] for name in file.namelist()}
    assert (
        top
        == {
            "mevis": {"valid0", "valid1"},
            "ref_youtube_vos": {"Annotations"},
            "ref_davis": {"anno_0", "anno_1", "anno_2", "anno_3"},
        }[dataset]
    )


def test_images_are_trained_on_together_with_videos(tmp_path: Path) -> None:
    images = standins.make_refcoco(tmp_path / "images")
    cache = _extract(images, "refcoco", "train", tmp_path / "a", "dataset.variants=2")
    assert len(CacheReader(cache)) % 2 == 0 and CacheReader(cache).dataset == "refcoco"
    videos = standins.make_ref_youtube_vos(tmp_path / "videos")
    other = _extract(videos, "ref_youtube_vos", "train", tmp_path / "b")
    weights = ("data.cache_weights=[1,3]",)
    run = _train(tmp_path / "run", cache, other, options=weights)
    assert list(run.glob("iter_*.pth"))
