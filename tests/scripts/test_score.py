"""Scoring of PNG masks through the command: folders and zips, against the original evaluators."""

import json
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from cache_schema.host import cli
from scripts import score
from scripts.annotations import open_dataset, with_truth
from tests import datasets_standins as standins

GOLDENS = Path(__file__).parents[1] / "data" / "jf"


def _run(dataset: str, root: Path, pred: Path, *more: str, split: str = "valid_u") -> int:
    out = root / "out" / "metrics.json"
    return cli.run(
        score.main,
        ["--dataset", dataset, "--root", str(root), "--split", split, "--pred", str(pred)]
        + ["--out", str(out), *more],
    )


def _metrics(root: Path) -> dict:
    return json.loads((root / "out" / "metrics.json").read_text())


def _pack(folder: Path, path: Path, prefix: str = "") -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for png in sorted(folder.rglob("*.png")):
            file.write(png, prefix + png.relative_to(folder).as_posix())
    return path


@pytest.fixture
def mevis(tmp_path: Path) -> Path:
    zipfile.ZipFile(GOLDENS / "mevis_syn.zip").extractall(tmp_path / "valid_u")
    return tmp_path


@pytest.fixture
def davis(tmp_path: Path) -> Path:
    zipfile.ZipFile(GOLDENS / "refdavis_syn.zip").extractall(tmp_path)
    return tmp_path


@pytest.mark.parametrize("workers", ["1", "2"])
def test_mevis_scores_as_the_original(mevis: Path, workers: str) -> None:
    pred = mevis / "valid_u" / "pred"
    packed = _pack(pred, mevis / "masks.zip")
    expected = json.loads((mevis / "valid_u" / "expected.json").read_text())
    for source in (pred, packed):
        assert _run("mevis", mevis, source, "--workers", workers) == 0
        found = _metrics(mevis)
        assert found["num_expressions"] == len(expected["per_expression"])
        for key in ("J", "F", "J&F"):
            assert found[key] == pytest.approx(expected[key], abs=1e-9)
        for key, (region, boundary) in expected["per_expression"].items():
            entry = found["per_expression"]["/".join(key.rsplit("_", 1))]
            assert entry["J"] == pytest.approx(region, abs=1e-9)
            assert entry["F"] == pytest.approx(boundary, abs=1e-9)
        assert found["missing"] == {"videos": ["vid0_03"], "expressions": [], "frames": []}
    video = found["per_video"]["vid0_00"]
    of_video = [e["J"] for key, e in found["per_expression"].items() if key.startswith("vid0_00/")]
    assert video["num_expressions"] == 4 and video["J"] == pytest.approx(np.mean(of_video))


def test_ref_davis_scores_as_the_original(davis: Path, capsys: pytest.CaptureFixture) -> None:
    expected = json.loads((davis / "expected.json").read_text())
    for source in (davis / "results", _pack(davis / "results", davis / "maps.zip")):
        assert _run("ref_davis", davis, source, split="valid") == 0
        found = _metrics(davis)
        for name, golden in expected.items():
            figures = found if name == "mean_over_4_annotators" else found["annotators"][name]
            for key, value in golden.items():
                if isinstance(value, float):
                    assert figures[key.removesuffix("-Mean")] == pytest.approx(value, abs=1e-9)
                else:
                    metric = key[0]
                    mine = {o: pair[metric] for o, pair in figures["per_object"].items()}
                    assert mine == pytest.approx(value, abs=1e-9)
    # Annotator 3 has two objects in each other's place: matching forgives that.
    matched, strict = found["annotators"], found["strict"]["annotators"]
    assert strict["anno_0"]["J&F"] == pytest.approx(matched["anno_0"]["J&F"])
    assert strict["anno_3"]["J&F"] < matched["anno_3"]["J&F"] - 0.1
    assert found["strict"]["J&F"] == pytest.approx(np.mean([s["J&F"] for s in strict.values()]))
    assert found["num_expressions"] == len(found["per_expression"]) == 24
    assert found["per_expression"]["cc/3"]["J"] == pytest.approx(
        expected["anno_3"]["J_per_object"]["cc_1"]
    )
    out = capsys.readouterr().out
    for words in ("anno_0", "anno_3", "mean", "J-Recall", "F-Decay", "strict J&F", "59.2"):
        assert words in out


def test_ref_davis_with_sentences_names_the_expressions(tmp_path: Path) -> None:
    root = standins.make_ref_davis(tmp_path / "davis", raw=False)
    for video, values in (("bear", [1]), ("twins", [1, 2])):
        _, labels = standins.scene(video)
        for annotator in range(4):
            for t, label in enumerate(labels):
                ids = np.where(np.isin(label, values), label, 0).astype(np.uint8)
                path = tmp_path / f"maps/anno_{annotator}/{video}/{t:05d}.png"
                standins.write_palette(path, ids)
    assert _run("ref_davis", root, tmp_path / "maps", split="val") == 0
    found = _metrics(root)
    assert found["J&F"] == found["strict"]["J&F"] == 1.0
    assert set(found["per_expression"]) == {f"bear/{i}" for i in range(4)} | {
        f"twins/{i}" for i in range(8)
    }
    assert found["per_expression"]["twins/5"]["text"] == standins.SENTENCES[2][1]


def test_no_target_expressions_of_mevis_v2(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    root = standins.make_mevis(tmp_path / "mevis", v2=True)
    for video in ("valid_u0", "valid_u1"):
        _, labels = standins.scene(video)
        for e in range(4):
            for t, label in enumerate(labels):
                # The sentence that means nothing (3) is right in one video and wrong in the other;
                # one that means something (0) is found in one video only.
                mask = (label == e % 2 + 1) & (video == "valid_u0" or e in (1, 2))
                if e == 3:
                    mask = (label > 0) & (video == "valid_u0") & (t == 2)
                path = tmp_path / f"pred/{video}/{e}/{t:05d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(mask.astype(np.uint8) * 255).save(path)
    assert _run("mevis", root, tmp_path / "pred") == 0
    found = _metrics(root)
    assert (found["N-acc"], found["T-acc"]) == (0.5, 5 / 6)
    said = capsys.readouterr().out
    assert "N-acc 50.0%" in said and "T-acc 83.3%" in said
    assert found["per_expression"]["valid_u0/3"]["J"] == 3 / 4
    assert found["per_expression"]["valid_u1/3"]["J&F"] == 1.0
    assert found["per_expression"]["valid_u1/0"]["J"] == 0.0


@pytest.mark.parametrize("prefix", ["", "Annotations/"])
def test_ref_youtube_vos_scores_where_its_masks_are(tmp_path: Path, prefix: str) -> None:
    root = standins.make_ref_youtube_vos(tmp_path / "ytvos")
    for video in ("a0", "a1"):
        _, labels = standins.scene(video)
        for e in range(4):
            for t, label in enumerate(labels):
                path = tmp_path / f"pred/{prefix}{video}/{e}/{5 * t:05d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(path), ((label == e // 2 + 1) & (t > 0)) * np.uint8(255))
    for source in (tmp_path / "pred", _pack(tmp_path / "pred", tmp_path / "pred.zip")):
        assert _run("ref_youtube_vos", root, source, split="train") == 0
        found = _metrics(root)
        assert {e["J"] for e in found["per_expression"].values()} == {3 / 4}
        assert found["num_expressions"] == 8


def test_only_annotations_are_needed(tmp_path: Path, mevis: Path) -> None:
    root = standins.make_mevis(tmp_path / "with_frames")
    for jpeg in root.rglob("*.jpg"):
        jpeg.unlink()
    (tmp_path / "pred/valid_u0/0").mkdir(parents=True)
    Image.fromarray(np.zeros(standins.SIZE, np.uint8)).save(tmp_path / "pred/valid_u0/0/00000.png")
    assert _run("mevis", root, tmp_path / "pred") == 0


def test_what_is_missing_scores_zero_and_is_listed(
    mevis: Path, capsys: pytest.CaptureFixture
) -> None:
    pred = mevis / "valid_u" / "pred"
    assert _run("mevis", mevis, pred) == 0
    before = _metrics(mevis)["per_expression"]
    (pred / "vid0_00/1/00002.png").unlink()
    for path in (pred / "vid0_01/2").iterdir():
        path.unlink()
    capsys.readouterr()
    assert _run("mevis", mevis, pred) == 0
    after = _metrics(mevis)
    assert after["missing"] == {
        "videos": ["vid0_03"], "expressions": ["vid0_01/2"], "frames": ["vid0_00/1/00002"],
    }  # fmt: skip
    assert after["per_expression"]["vid0_01/2"]["J&F"] == 0.0
    assert 0 < after["per_expression"]["vid0_00/1"]["J"] < before["vid0_00/1"]["J"]
    assert after["per_expression"]["vid0_00/0"] == before["vid0_00/0"]
    said = capsys.readouterr().out
    assert "missing frames, scored 0: 1 (vid0_00/1/00002)" in said


def test_missing_maps_score_zero_and_are_listed(davis: Path) -> None:
    results = davis / "results"
    (results / "anno_1/aa/00001.png").unlink()
    for path in (results / "anno_2/cc").iterdir():
        path.unlink()
    assert _run("ref_davis", davis, results, split="valid") == 0
    found = _metrics(davis)
    assert found["missing"] == {"videos": ["anno_2/cc"], "frames": ["anno_1/aa/00001"]}
    assert found["annotators"]["anno_2"]["per_object"]["cc_1"]["J&F"] == 0.0
    expected = json.loads((davis / "expected.json").read_text())
    assert found["annotators"]["anno_1"]["J"] < expected["anno_1"]["J-Mean"]


def test_images_with_sentences_are_scored_too(tmp_path: Path) -> None:
    root = standins.make_refcoco(tmp_path / "images")
    for video in with_truth(open_dataset("refcoco", root, "train")):
        for expression in video.expressions:
            (rles,) = (video.objects[i] for i in expression.annotation_ids)
            for frame, rle in zip(video.frames, rles, strict=True):
                mask = coco.decode(rle) if rle else np.zeros(video.annotated_size, np.uint8)
                path = tmp_path / "pred" / video.id / expression.id / f"{frame}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(mask).save(path)
    assert _run("refcoco", root, tmp_path / "pred", "--strict", split="train") == 0
    assert _metrics(root)["J&F"] == 1.0


def test_bad_input_ends_in_a_sentence(mevis: Path, capsys: pytest.CaptureFixture) -> None:
    pred = mevis / "valid_u" / "pred"

    def error(pred: Path = pred, *more: str) -> str:
        assert _run("mevis", mevis, pred, *more) == 2
        lines = capsys.readouterr().err.splitlines()
        assert lines[-1].startswith("error: ")
        return lines[-1]

    assert "absent is neither a folder nor a zip file: it does not exist" in error(mevis / "absent")
    (mevis / "text.zip").write_text("no zip")
    truth = mevis / "valid_u" / "mask_dict.json"
    for out, words in ((truth, "holds no metrics"), (mevis / "text.zip", "ends in .json")):
        before = out.read_bytes()
        assert words in error(pred, "--out", str(out))
        assert out.read_bytes() == before
    assert "is neither a folder nor a zip file" in error(mevis / "text.zip")
    assert "has no vid0_03/0/00000.png; without --strict" in error(pred, "--strict")
    assert "at least one process" in error(pred, "--workers", "0")
    wrapped = _pack(pred, mevis / "wrapped.zip", "pred/")
    said = error(wrapped)
    assert "has none of the masks to be scored, such as vid0_00/0/00000.png" in said
    assert "the videos at its top" in said
    path = pred / "vid0_00/1/00002.png"
    whole = path.read_bytes()
    for content, what in (
        (b"", "it is not a PNG file"),
        (b"hello, no image", "it is not a PNG file"),
        (whole[: len(whole) // 2], "it is cut short"),
        (whole[:-20] + bytes([whole[-20] ^ 1]) + whole[-19:], "it is cut short or damaged"),
    ):
        path.write_bytes(content)
        said = error(pred, "--workers", "1")
        assert f"vid0_00/1/00002.png cannot be scored: {what}" in said and "make it again" in said
    cv2.imwrite(str(path), np.zeros((30, 40), np.uint8))
    assert "it is 30x40 pixels, the video" in error()
    (mevis / "valid_u" / "mask_dict.json").unlink()
    assert "no truth to score with" in error()


def test_bad_maps_end_in_a_sentence(davis: Path, capsys: pytest.CaptureFixture) -> None:
    path = davis / "results/anno_1/bb/00001.png"
    size = np.asarray(Image.open(path)).shape

    def error(*more: str) -> str:
        assert _run("ref_davis", davis, davis / "results", *more, split="valid") == 2
        return capsys.readouterr().err.splitlines()[-1]

    Image.fromarray(np.zeros((*size, 3), np.uint8)).save(path)
    assert "bb/00001.png cannot be scored: it has mode RGB, not a palette" in error()
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(path)
    assert "it is 9x9 pixels, the video 120x214" in error()
    Image.fromarray(np.full(size, 21, np.uint8)).save(path)
    assert "anno_1/bb: a map holds the object 21; the benchmark takes" in error()
    path.unlink()
    assert "has no anno_1/bb/00001.png; without --strict" in error("--strict")
    for png in (davis / "results").rglob("*.png"):
        png.unlink()
    said = error()
    assert "has none of the maps to be scored" in said and "at its top" in said


def test_a_zip_cannot_fill_the_memory(mevis: Path, capsys: pytest.CaptureFixture) -> None:
    bomb = mevis / "bomb.zip"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("vid0_00/0/00000.png", bytes(300 << 20))
    assert _run("mevis", mevis, bomb, "--workers", "1") == 2
    said = capsys.readouterr().err
    assert "bomb.zip" in said and "set DMVS_MAX_UNPACKED" in said
