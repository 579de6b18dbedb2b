"""EXIF orientation and sizes of frames: one reader, and the masks decide where they can."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from cache_schema.host import cli
from cache_schema.host.cli import InputError
from extract.datasets.frames import ORIENTATION, SIDEWAYS, image_header, read_image
from extract.datasets.mevis import MeViS
from extract.datasets.records import encode_mask
from scripts.check_data import main as check_data

SIZE = (6, 10)  # as stored


def picture(path: Path, turn: int) -> None:
    """A picture whose corners differ."""
    ramp = np.linspace(0, 200, SIZE[0] * SIZE[1]).reshape(SIZE).astype(np.uint8)
    exif = Image.Exif()
    exif[ORIENTATION] = turn
    Image.fromarray(np.dstack([ramp, ramp.T.reshape(SIZE), ramp])).save(
        path, quality=100, exif=exif
    )


def data_set(root: Path, turn: int, mask_size: tuple[int, int] | None) -> Path:
    """A split of MeViS of one video of two frames."""
    split = root / ("valid_u" if mask_size else "valid")
    (split / "JPEGImages" / "v").mkdir(parents=True)
    for name in ("0", "1"):
        picture(split / "JPEGImages" / "v" / f"{name}.jpg", turn)
    said = {"exp": "a square"} | ({"obj_id": [0], "anno_id": [7]} if mask_size else {})
    videos = {"v": {"frames": ["0", "1"], "expressions": {"0": said}}}
    (split / "meta_expressions.json").write_text(json.dumps({"videos": videos}))
    if mask_size:
        rle = encode_mask(np.eye(*mask_size, dtype=np.uint8))
        (split / "mask_dict.json").write_text(json.dumps({"7": [rle, rle]}))
    return split


@pytest.mark.parametrize("turn", range(1, 9))
def test_frames_are_turned_as_opencv_turns_them(tmp_path: Path, turn: int) -> None:
    picture(tmp_path / "a.jpg", turn)
    shown = cv2.cvtColor(cv2.imread(str(tmp_path / "a.jpg")), cv2.COLOR_BGR2RGB)
    np.testing.assert_array_equal(read_image(tmp_path / "a.jpg", video_id="v"), shown)
    stored = read_image(tmp_path / "a.jpg", video_id="v", turned=False)
    assert stored.shape[:2] == image_header(tmp_path / "a.jpg")[0] == SIZE


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("masks", ["stored", "shown", "other", None])
def test_the_masks_decide_and_every_command_agrees(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], turn: int, masks: str | None
) -> None:
    shown = SIZE[::-1] if turn in SIDEWAYS else SIZE
    size = {"stored": SIZE, "shown": shown, "other": (7, 7), None: None}[masks]
    split = data_set(tmp_path, turn, size)
    video = MeViS(tmp_path, split.name).video("v")
    if masks == "other":
        with pytest.raises(InputError, match="7x7"):
            video.size()
    else:
        assert video.size() == (size or shown) == video.read_frame(1).shape[:2]
    decided = turn == 1 or (masks is not None and turn in SIDEWAYS)
    assert ("EXIF orientation" in capsys.readouterr().err) != decided
    for full in ([], ["--full"]):
        arguments = ["--dataset", "mevis", "--root", str(tmp_path), "--split", split.name]
        assert cli.run(check_data, [*arguments, *full]) == (masks == "other")
        assert ("EXIF orientation" in capsys.readouterr().out) != decided


@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
def test_a_picture_that_says_it_is_huge_is_not_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    cv2.imwrite(str(tmp_path / name), np.zeros((20, 30, 3), np.uint8))
    monkeypatch.setenv("DMVS_MAX_PIXELS", "599")
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("decoded"))
    with pytest.raises(InputError, match="20x30 .*600 pixels .*more than 599 .*DMVS_MAX_PIXELS"):
        read_image(tmp_path / name, video_id="v")
