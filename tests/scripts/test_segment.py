"""A person's own video and sentences: films that play, masks that lie where the film shows them."""

import json
import os
import shutil
import struct
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from cache_schema.host import cli
from extract.__main__ import main as extract
from extract.datasets.frames import VideoDecoder
from extract.demo.layout import write_split
from scripts.segment.__main__ import main as segment
from scripts.segment.results import COLOUR
from train.__main__ import main as train
from train.evaluation.pngs.files import read_mask

ROOT = Path(__file__).parents[2]
WEIGHTS = ROOT / "extract/assets/vita_tiny.safetensors"
SMALL = ["train.max_iters=2", "train.batch_size=2", "model.num_layers=1"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A head after two steps on videos of the demo world."""
    root = tmp_path_factory.mktemp("run")
    write_split(root / "data", "train", 2, seed=11)
    command = ["demo", "--data-root", str(root / "data"), "--split", "train", "--device", "cpu"]
    assert extract([*command, "--weights", str(WEIGHTS), "--out", str(root / "cache")]) == 0
    command = [str(ROOT / "train/configs/demo.py"), "--cache", str(root / "cache")]
    assert train([*command, "--work-dir", str(root / "run"), "--cfg-options", *SMALL]) == 0
    return root / "run"


def frames(count: int = 6, size: tuple[int, int] = (96, 160)) -> list[np.ndarray]:
    """A bright square that moves over a dark ground."""
    pictures = []
    for t in range(count):
        picture = np.full((*size, 3), 60, np.uint8)
        picture[30:60, 20 + 12 * t : 50 + 12 * t] = (220, 200, 40)
        pictures.append(picture)
    return pictures


def write_film(path: Path, times: list[int], codec: str = "libx264") -> Path:
    """A film of `frames`, shown at times in milliseconds."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 160, 96, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for picture, time in zip(frames(len(times)), times, strict=True):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def turn(path: Path) -> Path:
    """Have players show an MP4 file turned by a quarter, as telephones do."""
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 44
    turned = [0, 1 << 16, 0, -1 << 16, 0, 0, 96 << 16, 0, 1 << 30]
    data[matrix : matrix + 36] = struct.pack(">9i", *turned)
    path.write_bytes(data)
    return path


def decoded(path: Path) -> tuple[list[np.ndarray], list[float]]:
    with av.open(str(path)) as container:
        shown = list(container.decode(video=0))
    return [f.to_ndarray(format="rgb24") for f in shown], [f.time for f in shown]


def command(video: Path, run: Path, out: Path, *more: str) -> list[str]:
    return [str(video), "the square", *more, "--checkpoint", str(run), "--out", str(out),
            "--device", "cpu", "--top", "1"]  # fmt: skip


def check(folder: Path, video: Path) -> None:
    """The film shows the video, and the colour of masks where the masks are."""
    pictures, _ = decoded(folder / "overlay.mp4")
    said = json.loads((folder / "masks.json").read_text())["frames"]
    source = VideoDecoder(video, video_id="")
    assert len(pictures) == len(said) > 0
    for t, (picture, (name, rle)) in enumerate(zip(pictures, said.items(), strict=True)):
        mask = read_mask(folder / "masks" / f"{name}.png")
        assert mask.any() == (rle is not None)
        if rle is not None:
            assert np.array_equal(coco.decode(rle).astype(bool), mask)
        image = source.read(t).astype(float)
        assert picture.shape == image.shape
        # How far each pixel went from the frame towards the colour of masks.
        towards = (picture - image) @ (np.array(COLOUR) - 128.0)
        if mask.any() and not mask.all():
            assert np.median(towards[mask]) > np.median(towards[~mask]) + 500
            assert np.mean((towards > 2000) == mask) > 0.9
    assert any(rle is not None for rle in said.values())


@pytest.mark.parametrize("kind", ["plain", "turned", "uneven", "webm"])
def test_the_film_shows_each_mask_where_it_is(kind: str, run: Path, tmp_path: Path) -> None:
    times = [0, 40, 80, 400, 420, 900] if kind == "uneven" else [0, 40, 80, 120, 160, 200]
    if kind == "webm":
        video = write_film(tmp_path / "clip.webm", times, "libvpx-vp9")
    else:
        video = write_film(tmp_path / "clip.mp4", times)
    if kind == "turned":
        turn(video)
    assert segment(command(video, run, tmp_path / "out")) == 0
    check(tmp_path / "out" / "01-the-square", video)
    _, shown = decoded(tmp_path / "out" / "01-the-square" / "overlay.mp4")
    assert np.allclose(shown, np.array(times) / 1000, atol=0.002)
    size = decoded(tmp_path / "out" / "01-the-square" / "overlay.mp4")[0][0].shape
    assert size == ((160, 96, 3) if kind == "turned" else (96, 160, 3))


def test_another_sentence_needs_no_segmenter(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    video = write_film(tmp_path / "clip.mp4", [0, 40, 80])
    assert segment(command(video, run, tmp_path / "out")) == 0
    shards = {p: p.stat().st_mtime_ns for p in (tmp_path / "out/cache").rglob("*.h5")}
    gone = ["--weights", str(tmp_path / "gone.safetensors")]
    assert segment(command(video, run, tmp_path / "out", "the dark ground") + gone) == 0
    assert shards == {p: p.stat().st_mtime_ns for p in (tmp_path / "out/cache").rglob("*.h5")}
    assert "the dark ground" in capsys.readouterr().out
    scores = json.loads((tmp_path / "out/02-the-dark-ground/scores.json").read_text())
    assert len(scores["kept"]) == 1 and len(scores["scores"]) > 1
    assert (tmp_path / "out/02-the-dark-ground/sheet.png").is_file()


#: Libraries that take as long to load as all else that another sentence costs, and ours that do.
HEAVY = [
    "transformers", "torch._dynamo", "sympy", "scipy.optimize", "mmengine.runner", "mmengine.optim",
    "extract.pipeline.run", "extract.segmenters.vita",
]  # fmt: skip
APART = """
import json, sys, torch
at_once = set(sys.modules)
from scripts.segment.__main__ import main
assert main(sys.argv[2:]) == 0
print(json.dumps(sorted(set(json.loads(sys.argv[1])) & set(sys.modules) - at_once)))
"""


def test_another_sentence_loads_little(run: Path, tmp_path: Path) -> None:
    video = write_film(tmp_path / "clip.mp4", [0, 40, 80])
    assert segment(command(video, run, tmp_path / "out")) == 0
    again = command(video, run, tmp_path / "out")
    again[1] = "the square that moves"
    done = subprocess.run(
        [sys.executable, "-c", APART, json.dumps(HEAVY), *again],
        capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == []
    check(tmp_path / "out" / "01-the-square-that-moves", video)


def test_stride_and_most_frames(run: Path, tmp_path: Path) -> None:
    video = write_film(tmp_path / "clip.mp4", [0, 40, 80, 120, 160, 200])
    more = ["--stride", "2", "--max-frames", "2"]
    assert segment(command(video, run, tmp_path / "out") + more) == 0
    names = json.loads((tmp_path / "out/01-the-square/masks.json").read_text())["frames"]
    assert list(names) == ["00000", "00002"]
    assert np.allclose(decoded(tmp_path / "out/01-the-square/overlay.mp4")[1], [0, 0.08])


def test_masks_of_other_frames_do_not_stay(run: Path, tmp_path: Path) -> None:
    words = command(write_film(tmp_path / "clip.mp4", [0, 40, 80]), run, tmp_path / "out")
    assert segment(words) == 0
    assert segment([*words, "--stride", "2"]) == 0
    masks = (tmp_path / "out/01-the-square/masks").iterdir()
    assert sorted(path.name for path in masks) == ["00000.png", "00002.png"]


def test_a_video_is_not_replaced_by_its_results(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (folder := tmp_path / "out/01-the-square").mkdir(parents=True)
    film = write_film(folder / "overlay.mp4", [0, 40, 80])
    before = film.read_bytes()
    for video in (film, folder):
        assert cli.run(segment, command(video, run, tmp_path / "out")) == 2
        assert "give another --out" in capsys.readouterr().err
    assert film.read_bytes() == before and list(folder.iterdir()) == [film]


def test_a_film_is_replaced_by_a_whole_one_only(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    words = command(write_film(tmp_path / "clip.mp4", [0, 40, 80]), run, tmp_path / "out")
    assert segment(words) == 0
    folder = tmp_path / "out/01-the-square"
    film = (folder / "overlay.mp4").read_bytes()
    shutil.rmtree(folder / "masks")
    (folder / "masks").write_text("a file, where a folder has to be")
    assert cli.run(segment, [*words, "--stride", "2"]) == 2
    assert "cannot be written" in capsys.readouterr().err
    assert (folder / "overlay.mp4").read_bytes() == film
    assert not list(folder.glob(".*"))


def test_after_a_failure_the_same_command_goes_on(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """What stopped the first run is gone, and nothing of the video tells: it has to be asked."""
    video = tmp_path / "clip"
    video.mkdir()
    for t, picture in enumerate(frames(3)):
        Image.fromarray(picture).save(video / f"{t}.png")
    second = video / "1.png"
    data, times = second.read_bytes(), (0, 0)
    second.write_bytes(bytes(len(data)))
    os.utime(second, times)
    words = command(video, run, tmp_path / "out")
    assert cli.run(segment, words) == 2
    assert "1.png is broken" in capsys.readouterr().err
    second.write_bytes(data)
    os.utime(second, times)
    assert segment(words) == 0


def test_mask_features_of_a_fitted_codec(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    video = write_film(tmp_path / "clip.mp4", [0, 40, 80])
    words = command(video, run, tmp_path / "out")
    assert segment([*words, "--codec", "lowrank-int8"]) == 0
    check(tmp_path / "out" / "01-the-square", video)
    assert segment(words) == 0
    assert cli.run(segment, [*words, "--codec", "float16"]) == 2
    assert "is kept as lowrank-int8" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"--weights": "other.safetensors"}, "has the SHA-256"),
        ({"--checkpoint": "nothing"}, "nothing"),
        ({"video": "gone.mp4"}, "gone.mp4 does not exist"),
        ({"video": "text.mp4"}, "cannot be opened as a video"),
        ({"video": "b\udcff.mp4"}, "is not valid Unicode"),
        ({"--sigma": "2"}, "--sigma 2.0"),
        ({"--sigma": "0.5"}, "--top 1 takes the best whatever its score"),
        ({"--codec": "float8"}, "unknown codec 'float8'"),
        ({"--stride": "0"}, "--stride"),
        ({"sentence": " "}, "is empty"),
    ],
)
def test_what_cannot_be_done_is_said(
    change: dict[str, str],
    sentence: str,
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("other.safetensors").write_bytes(b"other")
    Path("text.mp4").write_text("no film")
    Path("b\udcff.mp4").write_text("a name that is not UTF-8")
    write_film(tmp_path / "clip.mp4", [0, 40, 80])
    words = command(Path("clip.mp4"), run, Path("out"))
    for key, value in change.items():
        if key == "video":
            words[0] = value
        elif key == "sentence":
            words[1] = value
        elif key in words:
            words[words.index(key) + 1] = value
        else:
            words += [key, value]
    assert cli.run(segment, words) == 2
    assert sentence in capsys.readouterr().err


def test_without_the_demo_nothing_can_be_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.run(segment, []) == 2
    assert "run `make demo` first" in capsys.readouterr().err
