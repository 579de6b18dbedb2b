"""Submissions: complete, in the server's layout, written in one piece, and checked."""

import io
import signal
import struct
import subprocess
import sys
import zipfile
import zlib
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from cache_schema.host import cli
from cache_schema.host.cli import InputError
from cache_schema.reader import CacheReader
from tests.train.protocol_caches import write_cache, write_head
from train import evaluate
from train.evaluation.pngs.files import map_name, mask_name
from train.evaluation.pngs.png import encode_labels, encode_mask
from train.evaluation.submissions import writer as submission
from train.evaluation.submissions.layout import (
    MEVIS,
    REF_DAVIS,
    REF_YOUTUBE_VOS,
    Layout,
    Problem,
    pick_layout,
)
from train.evaluation.submissions.writer import cache_videos, check, from_cache, report_lines
from train.predictions import Predictions
from train.records import AnnotatedVideo, ExpressionRef

SIZE = (9, 12)
LAYOUTS = {"mevis": MEVIS, "ref_youtube_vos": REF_YOUTUBE_VOS, "ref_davis": REF_DAVIS}
DATASETS = list(LAYOUTS)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For each data set a cache, and the results of evaluating an untrained head on it."""
    folder = tmp_path_factory.mktemp("submission")
    write_head(folder)
    for dataset in DATASETS:
        write_cache(folder / dataset / "cache", dataset)
        options = ["--checkpoint", str(folder / "iter_0.pth"), "--save-masks", "--device", "cpu"]
        assert not cli.run(
            evaluate.main,
            [str(folder / "config.py"), "--cache", str(folder / dataset / "cache"), *options]
            + ["--out", str(folder / dataset)],
        )
    return folder


def _pack(place: Path, dataset: str, out: Path, **how: float) -> int:
    predictions = Predictions(place / dataset / "predictions.h5")
    how = {"sigma": predictions.sigma, **how}
    return from_cache(CacheReader(place / dataset / "cache"), predictions, out, **how)


def _problems(place: Path, dataset: str, path: Path) -> list[Problem]:
    videos = cache_videos(CacheReader(place / dataset / "cache"))
    return check(path, LAYOUTS[dataset], videos, num_videos=len(videos), workers=1)


@pytest.mark.parametrize("dataset", DATASETS)
def test_predictions_become_the_masks_of_the_evaluation(
    place: Path, tmp_path: Path, dataset: str
) -> None:
    out = tmp_path / "below" / "submission.zip"
    count = _pack(place, dataset, out)
    top = "Annotations/" if dataset == "ref_youtube_vos" else ""
    masks = place / dataset / "masks"
    with zipfile.ZipFile(out) as file:
        names = file.namelist()
        assert len(names) == count == (36 if dataset == "ref_davis" else 4 * 4 + 8 * 5)
        assert names[0].removeprefix(top) in (
            map_name(0, "video000", "00000"), mask_name("video000", "0", "00000"),
        )  # fmt: skip
        assert {top + p.relative_to(masks).as_posix() for p in masks.rglob("*.png")} == set(names)
        for name in names:
            assert file.read(name) == (masks / name.removeprefix(top)).read_bytes()
        assert file.testzip() is None
    with Image.open(masks / names[0].removeprefix(top)) as image:
        assert image.mode == ("P" if dataset == "ref_davis" else "L")
    assert _problems(place, dataset, out) == []
    again = tmp_path / "again.zip"
    _pack(place, dataset, again)
    assert again.read_bytes() == out.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again.zip", "below"]


def test_sigma_can_be_another(place: Path, tmp_path: Path) -> None:
    _pack(place, "mevis", tmp_path / "strict.zip", sigma=1.0)
    with zipfile.ZipFile(tmp_path / "strict.zip") as file:
        empty = {file.read(name) for name in file.namelist() if name.startswith("video000")}
    assert len(empty) == 1


@pytest.mark.parametrize("dataset", DATASETS)
def test_anybodys_folder_is_brought_into_the_servers_mode(
    place: Path, tmp_path: Path, dataset: str
) -> None:
    """Masks of 0 and 1 in colour, and maps in grey, are packed as if they were the server's own."""
    for path in (place / dataset / "masks").rglob("*.png"):
        other = tmp_path / "masks" / path.relative_to(place / dataset / "masks")
        other.parent.mkdir(parents=True, exist_ok=True)
        values = np.asarray(Image.open(path))
        values = values if dataset == "ref_davis" else np.stack([values // 255] * 3, axis=-1)
        Image.fromarray(values).save(other)
    videos = cache_videos(CacheReader(place / dataset / "cache"))
    out, how = tmp_path / "out.zip", {"num_videos": len(videos)}
    submission.from_files(tmp_path / "masks", LAYOUTS[dataset], videos, out, workers=2, **how)
    assert _problems(place, dataset, out) == []
    expected = tmp_path / "expected.zip"
    _pack(place, dataset, expected)
    with zipfile.ZipFile(out) as mine, zipfile.ZipFile(expected) as file:
        assert set(mine.namelist()) == set(file.namelist())
        for name in file.namelist():
            images = (cv2.imdecode(np.frombuffer(z.read(name), np.uint8), 1) for z in (mine, file))
            np.testing.assert_array_equal(*images)
    # A submission is itself a source, and comes through as it is.
    submission.from_files(out, LAYOUTS[dataset], videos, tmp_path / "twice.zip", workers=1, **how)
    assert _problems(place, dataset, tmp_path / "twice.zip") == []


def _videos(num: int = 2) -> list[AnnotatedVideo]:
    return [
        AnnotatedVideo(
            video, ["00000", "00005"],
            [ExpressionRef(video, expression, "", "", [], []) for expression in "01"], {}, SIZE,
        )
        for video in (f"v{number}" for number in range(num))
    ]  # fmt: skip


def _good(top: str = "") -> dict[str, bytes]:
    mask = encode_mask(np.eye(*SIZE, dtype=bool))
    return {
        f"{top}v{v}/{e}/{frame}.png": mask
        for v in range(2) for e in range(2) for frame in ("00000", "00005")
    }  # fmt: skip


def _check(path: Path, files: dict[str, bytes], layout: Layout = MEVIS) -> dict[str, list[str]]:
    with zipfile.ZipFile(path, "w") as file:
        for name, data in files.items():
            file.writestr(name, data)
    found: dict[str, list[str]] = {}
    for problem in check(path, layout, _videos(), num_videos=2, workers=1):
        found.setdefault(problem.kind, []).append(problem.where)
    return found


def _png(values: np.ndarray, mode: str = "L") -> bytes:

    made = io.BytesIO()
    Image.fromarray(values).convert(mode).save(made, "PNG")
    return made.getvalue()


def test_the_check_names_what_a_server_rejects(tmp_path: Path) -> None:
    path, name = tmp_path / "s.zip", "v0/1/00005.png"

    def without(*prefixes: str) -> dict[str, bytes]:
        return {n: d for n, d in _good().items() if not n.startswith(prefixes)}

    assert _check(path, _good()) == {}
    assert _check(path, _good() | {"v0/": b""}) == {}  # entries of folders are no files
    assert _check(path, without("v1/")) == {"missing video": ["v1"]}
    assert _check(path, without("v0/1/")) == {"missing expression": ["v0/1"]}
    assert _check(path, without(name)) == {"missing frame": [name]}
    mask = _good()[name]
    assert _check(path, _good() | {"v7/0/00000.png": mask, "v7/1/00000.png": mask}) == {
        "extra video": ["v7"]
    }
    assert _check(path, _good() | {"v0/7/00000.png": mask}) == {"extra expression": ["v0/7"]}
    assert _check(path, _good() | {"v0/0/00001.png": mask}) == {"extra frame": ["v0/0/00001.png"]}
    for other in ("readme.txt", "v0/Thumbs.db", "__MACOSX/v0/0/._00000"):
        assert _check(path, _good() | {other: b""}) == {"extra file": [other]}
    for bad in ("../v0/0/x.png", "/etc/v0.png", "v0/../../x.png", "a\\..\\x.png", "C:/x.png"):
        assert _check(path, _good() | {bad: mask}) == {"path that leaves the folder": [bad]}
    wrapped = _check(path, {f"results/{n}": d for n, d in _good().items()})
    assert wrapped == {"wrapper folder": ["results/ around everything"]}
    assert list(_check(path, {"else.txt": b""})) == ["missing video"]
    assert list(_check(path, {})) == ["missing video"]
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(path, "w") as file:
        for n, d in [*_good().items(), (name, mask)]:
            file.writestr(n, d)
    twice = check(path, MEVIS, _videos(), num_videos=2, workers=1)
    assert twice == [Problem("file that is there twice", name)]


def test_the_check_looks_into_every_mask(tmp_path: Path) -> None:
    path, name = tmp_path / "s.zip", "v0/1/00005.png"
    whole = _good()[name]
    header = whole[:33]
    for data, kind, words in (
        (b"", "broken PNG", "not a PNG"),
        (whole[:-5], "broken PNG", "cut short"),
        (whole[:45] + bytes([whole[45] ^ 1]) + whole[46:], "broken PNG", "checksum"),
        (header + _chunk(b"IDAT", zlib.compress(b"\0" * 13)) + _chunk(b"IEND", b""),
         "broken PNG", "image data are broken"),
        (_png(np.zeros((9, 13), np.uint8)), "wrong size", "9x13 pixels, the video 9x12"),
        (_png(np.zeros(SIZE, np.uint8), "RGB"), "wrong mode", "RGB, not L"),
        (_png(np.zeros(SIZE, np.uint8), "P"), "wrong mode", "P, not L"),
        (_png(np.zeros(SIZE, np.uint8), "1"), "wrong mode", "1, not L"),
        (_png(np.ones(SIZE, np.uint8)), "wrong values", "[1], not 0 and 255"),
    ):  # fmt: skip
        found = _check(path, _good() | {name: data})
        assert list(found) == [kind] and words in found[kind][0] and name in found[kind][0]


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I4s", len(data), kind) + data + struct.pack(">I", zlib.crc32(kind + data))


def test_the_layouts_of_the_other_benchmarks(tmp_path: Path) -> None:
    path = tmp_path / "s.zip"
    assert _check(path, _good("Annotations/"), REF_YOUTUBE_VOS) == {}
    assert list(_check(path, _good(), REF_YOUTUBE_VOS)) == ["missing folder"]
    wrapped = _check(path, _good("x/Annotations/"), REF_YOUTUBE_VOS)
    assert wrapped == {"wrapper folder": ["x/ around everything"]}

    ids = np.zeros(SIZE, np.uint8)
    ids[2:5, 3:6] = 2
    good = {
        f"anno_{a}/v{v}/{frame}.png": encode_labels(ids)
        for a in range(4) for v in range(2) for frame in ("00000", "00005")
    }  # fmt: skip
    assert _check(path, good, REF_DAVIS) == {}
    name = "anno_2/v1/00005.png"
    for data, kind in (
        (_png(ids), "wrong mode"),
        (encode_labels(np.full(SIZE, 21, np.uint8)), "wrong values"),
    ):
        assert list(_check(path, good | {name: data}, REF_DAVIS)) == [kind]
    fewer = {n: d for n, d in good.items() if not n.startswith("anno_3/v0")}
    assert _check(path, fewer, REF_DAVIS) == {"missing annotator": ["anno_3/v0"]}
    extra = {"anno_4/v0/00000.png": good[name], "anno_0/v9/00000.png": good[name]}
    assert _check(path, good | extra, REF_DAVIS) == {
        "extra annotator": ["anno_4"], "extra video": ["anno_0/v9"],
    }  # fmt: skip


def test_a_damaged_member_is_named_and_a_damaged_zip_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "s.zip"
    _check(path, _good())
    data = bytearray(path.read_bytes())
    data[data.index(b"IDAT") + 6] ^= 255
    path.write_bytes(data)
    (problem,) = check(path, MEVIS, _videos(), num_videos=2, workers=1)
    assert problem.kind == "broken file" and "v0/0/00000.png" in problem.where
    for content in (b"", b"no zip", bytes(data[:200])):
        path.write_bytes(content)
        with pytest.raises(InputError, match="neither a folder nor a zip"):
            check(path, MEVIS, _videos(), num_videos=2, workers=1)
    with pytest.raises(InputError, match="is a folder; give the zip"):
        check(tmp_path, MEVIS, _videos(), num_videos=2, workers=1)


def test_sizes_that_nobody_knows_have_to_be_one_a_video(tmp_path: Path) -> None:
    path = tmp_path / "s.zip"
    _check(path, _good() | {"v1/1/00005.png": _png(np.zeros((5, 5), np.uint8))})
    videos = [AnnotatedVideo(v.id, v.frames, v.expressions, {}, None) for v in _videos()]
    (problem,) = check(path, MEVIS, videos, num_videos=2, workers=1)
    assert problem.kind == "wrong size" and "v1/1/00005.png" in problem.where


def test_long_lists_are_cut() -> None:
    lines = report_lines([Problem("missing frame", str(i)) for i in range(8)] + [Problem("x", "y")])
    assert lines == "missing frame: 8 (0, 1, 2, 3, 4, ...)\nx: 1 (y)"


def test_nothing_incomplete_appears_under_the_name(tmp_path: Path) -> None:
    out, (video, _) = tmp_path / "out.zip", _videos()
    out.write_bytes(b"before")
    mask = _good()["v0/0/00000.png"]
    whole = [(n, mask) for n in _good() if n.startswith("v0/")]
    for masks, kind in (
        (whole[:-1], "missing frame"),
        ([*whole, ("v0/9/00000.png", mask)], "extra file"),
        ([*whole, whole[0]], "extra file"),
    ):
        rejects = pytest.raises(submission.Rejected)
        with rejects as rejected, submission.new_submission(out, MEVIS) as writer:
            writer.add(video, masks)
        assert rejected.value.problems[0].kind == kind
        assert out.read_bytes() == b"before" and list(tmp_path.iterdir()) == [out]


def test_a_kill_leaves_no_zip_under_the_name(tmp_path: Path) -> None:
    out = tmp_path / "out.zip"
    code = f"""
import signal
from pathlib import Path
from train.evaluation.submissions.layout import MEVIS
from train.evaluation.submissions.writer import new_submission
from train.records import AnnotatedVideo, ExpressionRef

def masks():
    for frame in ("00000", "00005"):
        yield f"v0/0/{{frame}}.png", b"mask"
        print("written", flush=True)
        signal.pause()

expressions = [ExpressionRef("v0", "0", "", "", [], [])]
video = AnnotatedVideo("v0", ["00000", "00005"], expressions, {{}}, (9, 12))
with new_submission(Path({str(out)!r}), MEVIS) as writer:
    writer.add(video, masks())
"""
    command, root = [sys.executable, "-c", code], Path(__file__).parents[2]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=root) as process:
        assert process.stdout is not None and process.stdout.readline() == b"written\n"
        process.send_signal(signal.SIGKILL)
    assert not out.exists()


def test_caches_that_cannot_be_handed_in(place: Path, tmp_path: Path) -> None:
    facts = CacheReader(place / "mevis" / "cache").facts
    with pytest.raises(InputError, match="it has no sentences, so it is handed in nowhere"):
        pick_layout(replace(facts, has_text=False), "it")
    with pytest.raises(InputError, match="it does not say whether an expression means exactly one"):
        pick_layout(replace(facts, one_object=None), "it")
    reader = CacheReader(place / "mevis" / "cache")
    reader.failures["video009"] = "frame 3 is broken"
    with pytest.raises(InputError, match="lacks 1 videos that failed, such as video009"):
        cache_videos(reader)
    predictions = Predictions(place / "ref_davis" / "predictions.h5")
    write_cache(tmp_path / "second", "mevis", num_videos=3)
    reader = CacheReader(tmp_path / "second")
    reader.fingerprint_hex = "0" * 64
    with pytest.raises(InputError, match="was predicted from the cache"):
        from_cache(reader, predictions, tmp_path / "x.zip", sigma=0.5)
    odd = AnnotatedVideo("a/b", ["0"], [ExpressionRef("a/b", "0", "", "", [], [])], {}, SIZE)
    with pytest.raises(InputError, match="'a/b' is no plain name"):
        MEVIS.file_names(odd)
    (tmp_path / "file").write_text("")
    unwritable = submission.new_submission(tmp_path / "file" / "x.zip", MEVIS)
    with pytest.raises(InputError, match="cannot be written"), unwritable:
        pass
