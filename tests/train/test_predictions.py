"""The predictions file: what comes back, and what is refused."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from cache_schema.host.cli import InputError
from train.predictions import Predictions, PredictionsWriter

HEADER = {"fingerprint": "ab" * 32, "checkpoint": "cd" * 32, "rule": "threshold", "sigma": 0.7}
SCORES = np.float32([0.1, 0.9])
EMBEDS = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "new" / "predictions.h5"
    with PredictionsWriter(path, **HEADER) as writer:
        writer.add("v", "0", SCORES, EMBEDS)
        writer.add("../v/ü", "a/b", SCORES[::-1], EMBEDS)
    return path


def test_what_is_written_comes_back(path: Path) -> None:
    predictions = Predictions(path)
    assert {key: getattr(predictions, key) for key in HEADER} == HEADER
    for ids, expected in ((("v", "0"), SCORES), (("../v/ü", "a/b"), SCORES[::-1])):
        scores, embeds = predictions.get(*ids)
        np.testing.assert_array_equal(scores, expected)
        np.testing.assert_array_equal(embeds, EMBEDS)
    predictions.close()
    with h5py.File(path) as file:
        assert len(file["videos"]) == 2  # no id made a group of its own
        assert not [n for n in _names(file) if "mask_features" in n or n.endswith("masks")]


def _names(file: h5py.File) -> list[str]:
    names: list[str] = []
    file.visit(names.append)
    return names


def test_an_interrupted_run_leaves_the_old_file(path: Path) -> None:
    before = path.read_bytes()
    with pytest.raises(RuntimeError), PredictionsWriter(path, **HEADER) as writer:
        writer.add("v", "0", SCORES, EMBEDS)
        raise RuntimeError("stop")
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_missing_predictions_are_named(path: Path) -> None:
    with pytest.raises(InputError, match="expression 9 of video v"):
        Predictions(path).get("v", "9")


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such predictions file"):
        Predictions(tmp_path / "absent.h5")
    text = tmp_path / "text.h5"
    text.write_text("no HDF5")
    with pytest.raises(InputError, match="not a predictions file"):
        Predictions(text)
    with h5py.File(tmp_path / "other.h5", "w"):
        pass
    with pytest.raises(InputError, match="not a predictions file"):
        Predictions(tmp_path / "other.h5")


def test_facts_of_the_training_come_back_and_older_files_have_none(path: Path) -> None:
    assert Predictions(path).training == {}
    training = {"seed": 3, "caches": [{"split": "train"}]}
    with PredictionsWriter(path, **HEADER, training=training) as writer:
        writer.add("v", "0", SCORES, EMBEDS)
    assert Predictions(path).training == training
    with h5py.File(path, "a") as file:
        del file.attrs["training"]
    assert Predictions(path).training == {}
    with h5py.File(path, "a") as file:
        file.attrs["training"] = "no JSON"
    with pytest.raises(InputError, match="not a predictions file"):
        Predictions(path)


def test_another_version_is_refused(path: Path) -> None:
    with h5py.File(path, "a") as file:
        file.attrs["format_version"] = 2
    with pytest.raises(InputError, match="format version 2"):
        Predictions(path)


@pytest.mark.parametrize("damage", ["shape", "group", "external", "soft"])
def test_damaged_entries_are_refused(path: Path, damage: str) -> None:
    with h5py.File(path, "a") as file:
        group = file["videos/v/0"]
        del group["scores"]
        if damage == "shape":
            group["scores"] = np.zeros(5, np.float32)
        elif damage == "group":
            group.create_group("scores")
        elif damage == "external":
            group["scores"] = h5py.ExternalLink("/etc/hostname", "/x")
        else:
            group["scores"] = h5py.SoftLink("/videos/v/0/mask_embeds")
    with pytest.raises(InputError, match="expression 0 of video v"):
        Predictions(path).get("v", "0")


@pytest.mark.parametrize("score", [-2.0, 3.0])
def test_scores_are_probabilities(tmp_path: Path, score: float) -> None:
    with PredictionsWriter(tmp_path / "p.h5", **HEADER) as writer:
        writer.add("v", "0", np.array([0.5, score], np.float32), EMBEDS)
    with pytest.raises(InputError, match="expression 0 of video v has scores from .* from 0 to 1"):
        Predictions(tmp_path / "p.h5").get("v", "0")


def test_what_no_reader_takes_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="rule is 'auto'; choose one of threshold, top1"):
        PredictionsWriter(tmp_path / "p.h5", **{**HEADER, "rule": "auto"})
    with PredictionsWriter(tmp_path / "p.h5", **HEADER) as writer:
        for scores, queries in [([0.5, np.nan], EMBEDS), ([0.5], EMBEDS), ([0.5], [[np.inf]])]:
            with pytest.raises(ValueError, match="'v', '0': scores .* have to be finite, and as m"):
                writer.add("v", "0", scores, queries)
        writer.add("v", "0", [0.5, 1.0], [3, 4])
    assert Predictions(tmp_path / "p.h5").get("v", "0")[1].tolist() == [3, 4]


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        PredictionsWriter(tmp_path / "file" / "predictions.h5", **HEADER)


def test_a_head_that_draws_nothing_stores_which_video_queries_it_scores(tmp_path: Path) -> None:
    with PredictionsWriter(tmp_path / "p.h5", **HEADER) as writer:
        writer.add("v", "0", SCORES, np.array([4, 2]))
    predictions = Predictions(tmp_path / "p.h5")
    scores, sources = predictions.get("v", "0", (5, 3))
    np.testing.assert_array_equal(scores, SCORES)
    assert sources.tolist() == [4, 2] and sources.dtype == np.int64
    with pytest.raises(InputError, match="video queries from 2 to 4, the cache has 4"):
        predictions.get("v", "0", (4, 3))
