"""`python -m scripts.submit`: from predictions and folders to zips, and what it says of zips."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cache_schema.host import cli
from cache_schema.reader import CacheReader
from scripts import submit
from tests import datasets_standins as standins
from tests import synthetic
from tests.train.protocol_caches import write_cache
from train.predictions import PredictionsWriter


def _run(*arguments: str | Path) -> int:
    return cli.run(submit.main, [str(a) for a in arguments])


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A MeViS cache with predictions for it beside it."""
    videos = write_cache(tmp_path / "cache", "mevis")
    rng = np.random.default_rng(0)
    with PredictionsWriter(
        tmp_path / "predictions.h5",
        fingerprint=CacheReader(tmp_path / "cache").fingerprint_hex,
        checkpoint="0",
        rule="threshold",
        sigma=0.5,
    ) as writer:
        for video in videos:
            for expression in video.expressions:
                scores, embeds = rng.random(4), rng.standard_normal((4, 16))
                writer.add(video.id, expression.expression_id, scores, embeds)
    return tmp_path / "cache"


def test_predictions_are_packed_and_the_check_is_content(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "out.zip"
    stored = ["--cache", cache, "--predictions", tmp_path / "predictions.h5", "--device", "cpu"]
    assert _run(*stored, "--out", out) == 0
    assert "(56 masks)" in capsys.readouterr().out
    assert _run("--check", out, "--cache", cache) == 0
    assert "holds all that the server of MeViS wants" in capsys.readouterr().out
    assert _run(*stored, "--sigma", "1", "--out", tmp_path / "none.zip") == 0
    with zipfile.ZipFile(out) as file, zipfile.ZipFile(tmp_path / "none.zip") as none:
        assert any(file.read(name) != none.read(name) for name in file.namelist())
        (tmp_path / "masks").mkdir()
        file.extractall(tmp_path / "masks")
    assert _run("--pred", tmp_path / "masks", "--cache", cache, "--out", out) == 0
    assert _run("--check", out, "--cache", cache) == 0


def test_the_check_says_what_is_wrong(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "out.zip"
    stored = ["--cache", cache, "--predictions", tmp_path / "predictions.h5", "--device", "cpu"]
    assert _run(*stored, "--out", out) == 0
    with zipfile.ZipFile(out) as file, zipfile.ZipFile(tmp_path / "bad.zip", "w") as bad:
        for name in file.namelist()[:-1]:
            bad.writestr(name, file.read(name))
        bad.writestr("notes.txt", "hello")
    assert _run("--check", tmp_path / "bad.zip", "--cache", cache) == 1
    said = capsys.readouterr().out
    assert "would be rejected:" in said
    assert "missing frame: 1 (video001/7/00004.png)" in said
    assert "extra file: 1 (notes.txt)" in said


def test_an_incomplete_folder_is_not_packed(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    root = standins.make_mevis(tmp_path / "mevis")
    described = ["--dataset", "mevis", "--root", root, "--split", "valid"]
    for video in ("valid0", "valid1"):
        for e in range(3):
            for t in range(4):
                path = tmp_path / f"masks/{video}/{e}/{t:05d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(np.zeros(standins.SIZE, np.uint8)).save(path)
    out = tmp_path / "out.zip"
    assert _run("--pred", tmp_path / "masks", *described, "--out", out) == 0
    assert _run("--check", out, *described, "--workers", "1") == 0
    out.unlink()
    path.unlink()
    Image.fromarray(np.zeros((5, 5), np.uint8)).save(tmp_path / "masks/valid0/0/00001.png")
    capsys.readouterr()
    assert _run("--pred", tmp_path / "masks", *described, "--out", out) == 1
    said = capsys.readouterr().out
    assert "missing frame: 1 (valid1/2/00003.png)" in said
    assert "wrong size: 1 (valid0/0/00001.png: 5x5 pixels, the video 48x64)" in said
    assert not out.exists()


def test_ref_davis_is_packed_from_its_annotations(tmp_path: Path) -> None:
    root = standins.make_ref_davis(tmp_path / "davis", raw=True)
    for video in ("bear", "twins"):
        for annotator in range(4):
            for t in range(4):
                path = tmp_path / f"maps/anno_{annotator}/{video}/{t:05d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(np.ones(standins.SIZE, np.uint8)).save(path)
    described = ["--dataset", "ref_davis", "--root", root]
    out = tmp_path / "out.zip"
    assert _run("--pred", tmp_path / "maps", *described, "--out", out) == 0
    assert _run("--check", out, *described) == 0
    with zipfile.ZipFile(out) as file:
        assert len(file.namelist()) == 32
        with file.open("anno_0/bear/00000.png") as member, Image.open(member) as image:
            assert image.mode == "P" and np.unique(np.asarray(image)).tolist() == [1]


def test_bad_input_ends_in_a_sentence(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out, stored = tmp_path / "out.zip", tmp_path / "predictions.h5"

    def error(*arguments: str | Path) -> str:
        assert _run(*arguments) == 2
        return capsys.readouterr().err.splitlines()[-1]

    assert "needs the --cache" in error("--predictions", stored, "--out", out)
    assert "give --cache, or --dataset, --root" in error("--check", out)
    assert "give --out" in error("--predictions", stored, "--cache", cache)
    assert "from 0 to 1" in error(
        "--predictions", stored, "--cache", cache, "--out", out, "--sigma", "7"
    )
    assert "at least one process" in error("--check", out, "--cache", cache, "--workers", "0")
    assert "does not exist" in error("--check", tmp_path / "none.zip", "--cache", cache)
    (tmp_path / "text.zip").write_text("hello")
    assert "neither a folder nor a zip" in error("--check", tmp_path / "text.zip", "--cache", cache)
    assert "none.h5 does not exist" in error(
        "--predictions", tmp_path / "none.h5", "--cache", cache, "--out", out
    )
    text = tmp_path / "text.zip"
    given = "--pred", text, "--cache", cache
    assert "is what is read" in error(*given, "--out", text)
    assert "ends in .zip" in error(*given, "--out", tmp_path / "out")
    assert text.read_text() == "hello"
    synthetic.write_cache(tmp_path / "f", num_videos=1, num_expressions=0)
    assert "nothing to predict" in error("--check", text, "--cache", tmp_path / "f")
    assert not out.exists()
