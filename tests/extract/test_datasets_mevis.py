"""MeViS on disk: what is read, and one sentence for everything that can be wrong with it."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco

from extract.datasets import DATASETS, MeViS
from extract.text import normalise
from tests.datasets_standins import make_mevis
from tests.extract.refusals import refused

SIZE = (24, 32)
FRAMES = ["00000", "00001", "00002"]


def rle(size=SIZE, seed=0):
    mask = np.random.default_rng(seed).random(size) > 0.5
    made = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(size), "counts": made["counts"].decode()}


def expression(**changes):
    return {"exp": "The  Bird flying away", "obj_id": [0], "anno_id": [7]} | changes


@pytest.fixture
def meta():
    """Annotation of two videos; tests spoil a copy of it."""
    return {
        "videos": {
            "b": {"frames": list(FRAMES), "expressions": {"0": expression(), "1": expression()}},
            "a": {"frames": FRAMES[:2], "expressions": {"0": expression(anno_id=[8])}},
        }
    }


@pytest.fixture
def masks():
    return {"7": [rle(), None, rle(seed=1)], "8": [None, rle()]}


@pytest.fixture
def write(tmp_path):
    """Writes a split to disk and opens it."""

    def write(meta, masks=None, size=SIZE):
        split = tmp_path / "train"
        for video_id in ("a", "b"):
            folder = split / "JPEGImages" / video_id
            folder.mkdir(parents=True, exist_ok=True)
            for i, name in enumerate(FRAMES):
                image = np.full((*size, 3), (0, 0, 80 * i), np.uint8)  # BGR
                cv2.imwrite(str(folder / f"{name}.jpg"), image)
        text = meta if isinstance(meta, str) else json.dumps(meta)
        (split / "meta_expressions.json").write_text(text)
        if masks is not None:
            text = masks if isinstance(masks, str) else json.dumps(masks)
            (split / "mask_dict.json").write_text(text)
        return MeViS(tmp_path, "train")

    return write


def test_reads_videos_expressions_and_masks(write, meta, masks):
    meta["videos"]["b"]["expressions"]["1"] = expression(anno_id=[], obj_id=[], tag="static")
    data = write(meta, masks)
    assert DATASETS["mevis"] is MeViS
    assert len(data) == 2 and data.ids == ["b", "a"]
    assert [video.id for video in data] == ["b", "a"]
    video = data.video("b")
    assert video.frame_names == FRAMES and video.num_frames == 3 and video.size() == SIZE
    first, second = video.expressions
    assert (first.id, first.text, first.tag) == ("0", "The  Bird flying away", "")
    assert (first.object_ids, first.annotation_ids) == (["0"], ["7"])
    assert (second.annotation_ids, second.tag) == ([], "static")
    assert video.objects == {"7": masks["7"]}
    assert data.video("b", objects=False).objects == {}
    frame = video.read_frame(2)
    assert frame.shape == (*SIZE, 3) and frame.dtype == np.uint8
    assert abs(frame.mean((0, 1)) - (160, 0, 0)).max() < 3  # RGB


def test_version_2_has_sentences_without_a_target(tmp_path):
    video = MeViS(make_mevis(tmp_path, v2=True), "train").video("train1")
    assert [e.annotation_ids for e in video.expressions] == [["2"], ["3"], ["2", "3"], []]
    assert set(video.objects) == {"2", "3"}


def test_a_sentence_is_kept_as_it_was_written_and_folded_only_when_encoded(write, meta, masks):
    text = write(meta, masks).video("b").expressions[0].text
    assert text == "The  Bird flying away"
    assert normalise(text) == "the bird flying away"


def test_a_video_of_one_frame_is_kept(write, meta, masks):
    """Public loaders drop it, in training only; that is for the training data to decide."""
    meta["videos"]["a"]["frames"] = FRAMES[:1]
    masks["8"] = masks["8"][1:]
    data = write(meta, masks)
    assert data.ids == ["b", "a"] and data.video("a").num_frames == 1


def test_splits_that_are_there(tmp_path):
    assert MeViS.splits(tmp_path) == []
    assert MeViS.splits(make_mevis(tmp_path)) == ["train", "valid_u", "valid"]


def test_without_masks_there_are_no_objects(write, meta):
    meta["videos"]["b"]["expressions"]["0"] = {"exp": "a bird"}
    video = write(meta).video("b")
    assert video.objects == {}
    assert video.expressions[0].object_ids == video.expressions[0].annotation_ids == []


def test_fingerprint_follows_the_annotation(write, meta, masks):
    before = write(meta, masks).fingerprint()
    assert set(before) == {"meta_expressions.json", "mask_dict.json"}
    assert write(meta, masks).fingerprint() == before
    meta["videos"]["b"]["expressions"]["0"]["exp"] = "another"
    after = write(meta, masks).fingerprint()
    assert after["mask_dict.json"] == before["mask_dict.json"]
    assert after["meta_expressions.json"] != before["meta_expressions.json"]


@pytest.mark.parametrize(
    "meta, words",
    [
        ('{"videos": {\n"a": {,}}}', ["meta_expressions.json", "line 2"]),
        ('{"videos": {"a": {}, "a": {}}}', ["'a'", "twice"]),
        ("[1]", ['"videos"']),
        ('{"videos": []}', ['"videos"']),
        ('{"videos": {}}', ["no videos"]),
        ("[" * 100_000, ["meta_expressions.json", "not valid JSON"]),
    ],
)
def test_bad_meta_expressions(write, meta, words):
    refused(lambda: write(meta), *words)


@pytest.mark.parametrize(
    "masks, words",
    [
        ('{"7": [null],\n "8" [null]}', ["mask_dict.json", "line 2 column"]),
        ('{"7": [null], "7": [null]}', ["'7'", "twice"]),
        ('{"7": [null], "8": {}}', ["a list"]),
        ('{"7": [{"size": [2, 2], "counts": "a]', ["ends within a list"]),
        ('{"7": [null]} {}', ["after the end"]),
        ("[]", ["an object"]),
        ("", ["empty"]),
    ],
)
def test_bad_mask_dict(write, meta, masks, words):
    refused(lambda: write(meta, masks), "mask_dict.json", *words)


def test_malformed_masks_concern_their_video_only(write, meta):
    good = json.dumps({"8": [None, rle()]}).removesuffix("}")
    data = write(meta, good + ',\n"7": [null,, null]}')
    assert data.video("a").num_frames == 2
    refused(lambda: data.video("b"), "mask_dict.json", "'7'", "line 2")


def test_missing_files_and_folders(tmp_path):
    refused(lambda: MeViS(tmp_path / "gone", "train"), "gone", "does not exist")
    refused(lambda: MeViS(tmp_path, "train"), "train", "does not exist")
    refused(lambda: MeViS(tmp_path, "../train"), "../train")
    refused(lambda: MeViS(tmp_path, None), "split")
    (tmp_path / "train").mkdir()
    refused(lambda: MeViS(tmp_path, "train"), "meta_expressions.json", "does not exist")


@pytest.mark.parametrize(
    "change, words",
    [
        ({"frames": None}, ['"frames"']),
        ({"frames": []}, ["empty"]),
        ({"frames": ["00000", 1]}, ["1"]),
        ({"frames": ["../../../etc/passwd"]}, ["../../../etc/passwd"]),
        ({"frames": ["00001", "00000", "00002"]}, ["not sorted"]),
        ({"frames": ["00000", "00000", "00001"]}, ["twice"]),
        ({"frames": ["00000", "00001"]}, ["3 masks for 2 frames", "mask_dict.json"]),
        ({"expressions": []}, ['"expressions"']),
        ({"expressions": {"4": "text"}}, ["'4'"]),
        ({"expressions": {"../4": expression()}}, ["'../4'", "plain name"]),
        ({"expressions": {"4": {"obj_id": [], "anno_id": []}}}, ["'4'", '"exp"']),
        ({"expressions": {"4": expression(exp=" \n")}}, ["'4'", "empty"]),
        ({"expressions": {"4": expression(anno_id=None)}}, ["'4'", '"anno_id"']),
        ({"expressions": {"4": expression(anno_id=[True])}}, ["'4'", '"anno_id"']),
        ({"expressions": {"4": expression(obj_id=3)}}, ["'4'", '"obj_id"']),
        ({"expressions": {"4": expression(anno_id=[99])}}, ["'4'", "99", "mask_dict.json"]),
        ({"expressions": {"4": expression(tag=1)}}, ["'4'", '"tag"']),
    ],
)
def test_a_bad_entry_stops_only_its_video(write, meta, masks, change, words):
    meta["videos"]["b"] |= change
    data = write(meta, masks)
    refused(lambda: data.video("b"), "'b'", *words)
    assert data.video("a").num_frames == 2


@pytest.mark.parametrize(
    "mask, words",
    [
        (3, ["00001", "size and counts"]),
        ({"size": [24], "counts": "a"}, ["00001", "[height, width]"]),
        ({"size": [24, 32], "counts": [768]}, ["00001", "compressed"]),
        ({"size": [24, 32], "counts": "\x7f"}, ["00001", "compressed"]),
        ({"size": [24, 32], "counts": ""}, ["00001", "compressed"]),
        ({"size": [24, 32], "counts": "oooooooooo0"}, ["00001", "beyond"]),
        ({"size": [24, 32], "counts": rle((24, 31))["counts"]}, ["00001", "24x32"]),
        (rle((24, 31)), ["sizes"]),
    ],
)
def test_bad_masks(write, meta, masks, mask, words):
    masks["7"][1] = mask
    data = write(meta, masks)
    refused(lambda: data.video("b"), "'b'", "annotation 7", *words)


@pytest.mark.parametrize("video_id", ["../b", "/etc", "..", "", "a\\b", "a\0"])
def test_a_video_id_cannot_leave_the_folder(write, meta, masks, video_id):
    meta["videos"][video_id] = meta["videos"]["b"]
    data = write(meta, masks)
    refused(lambda: data.video(video_id), "leave the folder")


def test_masks_must_have_the_size_of_the_frames(write, meta, masks):
    video = write(meta, masks, size=(24, 40)).video("b")
    refused(lambda: video.read_frame(0), "video b", "24x32", "24x40", "annotation 7")


def test_a_link_that_leads_to_itself_is_one_bad_frame(write, meta, masks, tmp_path):
    video = write(meta, masks).video("b")
    path = tmp_path / "train" / "JPEGImages" / "b" / "00001.jpg"
    path.unlink()
    path.symlink_to(path)
    refused(lambda: video.read_frame(1), "video b", str(path), "cannot be read")
    meta_path = tmp_path / "train" / "meta_expressions.json"
    meta_path.unlink()
    meta_path.symlink_to(meta_path)
    refused(lambda: MeViS(tmp_path, "train"), "meta_expressions.json", "does not exist")


def test_bad_frames(write, meta, masks, tmp_path):
    video = write(meta, masks).video("b")
    folder = tmp_path / "train" / "JPEGImages" / "b"
    whole = (folder / "00001.jpg").read_bytes()

    def frame(data: bytes) -> Path:
        (folder / "00001.jpg").write_bytes(data)
        return folder / "00001.jpg"

    for data in (b"", b"not an image", whole[: len(whole) // 2], whole[:-2]):
        path = frame(data)
        refused(lambda: video.read_frame(1), "video b", str(path), "broken")
    cv2.imwrite(str(folder / "00001.jpg"), np.zeros((12, 32, 3), np.uint8))
    refused(lambda: video.read_frame(1), "video b", str(path), "12x32", "24x32")
    path.unlink()
    refused(lambda: video.read_frame(1), "video b", str(path), "does not exist")
    assert video.read_frame(2).shape == (*SIZE, 3)
