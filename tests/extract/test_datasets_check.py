"""What the check of a data set finds, what it only notes, and its exit status."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from extract.datasets.check import PUBLISHED, Published, check_split
from scripts.check_data import main
from tests.datasets_standins import (
    make_mevis,
    make_ref_davis,
    make_ref_youtube_vos,
    make_refcoco,
    rle,
    write_palette,
)
from tests.extract.refusals import refused
from tests.extract.stage_one import edit

MAKERS = {
    "mevis": make_mevis,
    "ref_youtube_vos": make_ref_youtube_vos,
    "ref_davis": lambda root: make_ref_davis(root, raw=True),
    "refcoco": make_refcoco,
    "refcoco+": make_refcoco,
    "refcocog": make_refcoco,
}


def found(name, root, split, **options):
    """The one thing that is wrong."""
    (line,) = check_split(name, root, split, **options).wrong
    return line


def noted(name, root, split, **options):
    report = check_split(name, root, split, **options)
    assert report.wrong == []
    return [line for line in report.notes if not line.startswith("published are")]


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("name", MAKERS)
def test_sound_data(name, full, tmp_path, capsys):
    MAKERS[name](tmp_path)
    assert main(["--dataset", name, "--root", str(tmp_path)] + ["--full"] * full) == 0
    said = capsys.readouterr().out
    assert f"{name} train: " in said and "note: published are" in said
    assert said.endswith("nothing is wrong\n") and "wrong:" not in said


def test_command_line(tmp_path, capsys):
    make_mevis(tmp_path)
    command = [sys.executable, "-m", "scripts.check_data", "--dataset", "mevis", "--root", tmp_path]

    def run(*arguments):
        done = subprocess.run(
            [*command, *arguments], capture_output=True, text=True, cwd=Path(__file__).parents[2]
        )
        return done.returncode, done.stdout, done.stderr

    status, out, _ = run("--split", "train", "valid")
    assert status == 0 and "mevis valid: 2 videos, 6 sentences, 8 frames" in out
    (tmp_path / "train/JPEGImages/train0/00001.jpg").unlink()
    status, out, _ = run()
    assert status == 1 and "1 things are wrong" in out and "00001.jpg does not exist" in out
    (tmp_path / "train/meta_expressions.json").write_text('{"videos":\n {,}}')
    status, _, err = run()
    assert status == 2 and "line 2 column 3" in err and "Traceback" not in err
    status, _, err = run("--split", "gone")
    assert status == 2 and "gone does not exist" in err


def test_nothing_to_check(tmp_path):
    for name in MAKERS:
        refused(lambda name=name: main(["--dataset", name, "--root", str(tmp_path)]), "no split")


def test_a_folder_of_videos(tmp_path, capsys):
    make_mevis(tmp_path)
    folder = tmp_path / "train" / "JPEGImages"
    assert main(["--dataset", "folder", "--root", str(folder)]) == 0
    (folder / "train0" / "00002.jpg").write_bytes(b"")
    assert main(["--dataset", "folder", "--root", str(folder)]) == 1
    assert "00002.jpg is not an image (0 bytes)" in capsys.readouterr().out


def test_video_files_are_decoded_in_full_only(tmp_path):
    path = tmp_path / "a.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (24, 16))
    for _ in range(3):
        writer.write(np.zeros((16, 24, 3), np.uint8))
    writer.release()
    for full in (False, True):
        report = check_split("folder", tmp_path, None, full=full)
        assert (report.videos, report.frames, report.wrong) == (1, 3, [])


def test_counts_are_compared_with_every_release(tmp_path, monkeypatch):
    make_mevis(tmp_path)
    releases = [Published("one", 2, 5), Published("two", 2, 6)]
    monkeypatch.setitem(PUBLISHED, "mevis", {"train": releases})
    assert noted("mevis", tmp_path, "train") == ["as many as published (two)"]
    releases[1] = Published("two", 3)
    assert check_split("mevis", tmp_path, "train").notes == [
        "published are 2 videos and 5 sentences (one) or 3 videos (two)"
    ]


def test_published_counts_of_mevis():
    counts = {
        split: [(p.videos, p.expressions) for p in releases]
        for split, releases in PUBLISHED["mevis"].items()
    }
    assert counts == {
        "train": [(1662, 23051), (1662, 27502)],
        "valid_u": [(50, 793), (50, 907)],
        "valid": [(140, 2236), (140, 2523)],
    }


def test_broken_frames_show_in_full_only(tmp_path):
    make_mevis(tmp_path)
    path = tmp_path / "train/JPEGImages/train1/00003.jpg"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 3 // 4])
    assert check_split("mevis", tmp_path, "train").wrong == []
    line = found("mevis", tmp_path, "train", full=True)
    assert line.startswith("video train1: 1 of 4 frames cannot be read") and str(path) in line


def test_frames_of_two_sizes(tmp_path):
    make_mevis(tmp_path)
    path = tmp_path / "valid/JPEGImages/valid0/00003.jpg"
    cv2.imwrite(str(path), np.zeros((20, 64, 3), np.uint8))
    line = found("mevis", tmp_path, "valid")
    assert "video valid0" in line and "20x64 and 48x64" in line


def test_masks_of_another_size_than_the_frames(tmp_path):
    make_mevis(tmp_path)
    mask = rle(np.ones((24, 64), bool))
    edit(tmp_path / "train/mask_dict.json", lambda masks: masks.update({"3": [mask] * 4}))
    line = found("mevis", tmp_path, "train")
    assert all(word in line for word in ("train1", "annotation 3", "24x64", "48x64"))


def test_a_bad_annotation_is_one_wrong_thing(tmp_path):
    make_mevis(tmp_path)
    edit(tmp_path / "train/mask_dict.json", lambda masks: masks.pop("3"))
    line = found("mevis", tmp_path, "train")
    assert "'train1'" in line and "annotation 3" in line
    edit(tmp_path / "train/mask_dict.json", lambda masks: masks.update({"3": [None] * 4}))
    path = tmp_path / "train/mask_dict.json"
    path.write_text(path.read_text().replace('"2": [', '"2": [,'))
    assert "line 1 column" in found("mevis", tmp_path, "train")


def test_annotations_that_no_sentence_is_about(tmp_path):
    make_mevis(tmp_path / "m")
    edit(tmp_path / "m/train/mask_dict.json", lambda masks: masks.update({"77": [None]}))
    (line,) = noted("mevis", tmp_path / "m", "train")
    assert "1 annotations" in line and "77" in line

    root = make_ref_youtube_vos(tmp_path / "y")
    edit(
        root / "train/meta.json",
        lambda m: m["videos"]["a1"]["objects"].update({"3": {"category": "x"}}),
    )
    assert noted("ref_youtube_vos", root, "train") == ["video a1: no sentence is about object 3"]

    root = make_ref_davis(tmp_path / "d", raw=False)
    for path in (root / "valid/Annotations/bear").iterdir():
        labels = np.array(Image.open(path))
        labels[0, 0] = 7
        write_palette(path, labels)
    assert noted("ref_davis", root, "valid") == []
    assert noted("ref_davis", root, "valid", full=True) == [
        "video bear: no sentence is about object 7"
    ]


def test_png_masks(tmp_path):
    root = make_ref_youtube_vos(tmp_path)
    path = root / "train/Annotations/a0/00010.png"

    def wrong(*words):
        for full in (False, True):
            line = found("ref_youtube_vos", root, "train", full=full)
            assert "video a0" in line and all(word in line for word in (str(path), *words)), line

    Image.fromarray(np.zeros((48, 64, 3), np.uint8)).save(path)
    wrong("RGB", "not of object ids")
    write_palette(path, np.zeros((24, 64), np.uint8))
    wrong("24x64", "48x64")
    path.write_bytes(b"")
    wrong()
    path.unlink()
    wrong("does not exist")


def test_masks_of_another_size_than_the_frames_as_pngs(tmp_path):
    root = make_ref_youtube_vos(tmp_path)
    for path in (root / "train/Annotations/a0").iterdir():
        write_palette(path, np.full((24, 64), 2, np.uint8))
    for full in (False, True):
        line = found("ref_youtube_vos", root, "train", full=full)
        assert "24x64" in line and "48x64" in line


def test_first_frame_masks_are_no_ground_truth(tmp_path):
    root = make_ref_youtube_vos(tmp_path, valid_masks=True)
    for path in sorted((root / "valid/Annotations/v0").iterdir())[1:]:
        path.unlink()
    assert noted("ref_youtube_vos", root, "valid") == [
        "video v0: masks of 1 of 4 frames are no ground truth"
    ]
    shutil.rmtree(root / "valid/Annotations/v1")
    assert len(noted("ref_youtube_vos", root, "valid")) == 1


def test_a_target_that_no_mask_shows(tmp_path):
    root = make_ref_youtube_vos(tmp_path)
    for path in (root / "train/Annotations/a0").iterdir():
        write_palette(path, (np.array(Image.open(path)) == 1).astype(np.uint8))
    assert noted("ref_youtube_vos", root, "train", full=True) == [
        "video a0: no mask shows object 2"
    ]


def test_videos_of_one_frame(tmp_path):
    make_mevis(tmp_path, frames=1)
    (line,) = noted("mevis", tmp_path, "valid")
    assert "2 videos have one frame" in line


def test_images_of_coco(tmp_path):
    make_refcoco(tmp_path, images=4)
    images = sorted((tmp_path / "train2014").iterdir())
    images[0].unlink()
    cv2.imwrite(str(images[1]), np.zeros((64, 48, 3), np.uint8))
    whole = images[2].read_bytes()
    images[2].write_bytes(whole[: len(whole) * 3 // 4])
    lines = check_split("refcoco", tmp_path, "train").wrong
    assert len(lines) == 2
    assert "video 100_0" in lines[0] and "does not exist" in lines[0]
    assert "video 101_0" in lines[1] and "64x48" in lines[1] and "48x64" in lines[1]
    lines = check_split("refcoco", tmp_path, "train", full=True).wrong
    assert len(lines) == 3 and "video 102_0" in lines[2] and "broken" in lines[2]


def test_ids_that_would_leave_the_folder(tmp_path):
    make_mevis(tmp_path)
    edit(
        tmp_path / "valid/meta_expressions.json",
        lambda m: m["videos"].update({"../x": m["videos"]["valid0"]}),
    )
    assert "leave the folder" in found("mevis", tmp_path, "valid")
    text = json.dumps({"videos": {}}).replace("{}", '{"a": {}, "a": {}}')
    (tmp_path / "valid/meta_expressions.json").write_text(text)
    refused(lambda: check_split("mevis", tmp_path, "valid"), "'a'", "twice")
