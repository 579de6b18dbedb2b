"""Ref-YouTube-VOS on disk: two folders of annotation, PNG masks, a valid list that holds test."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from extract.datasets import DATASETS, RefYouTubeVOS
from tests.datasets_standins import SIZE, make_ref_youtube_vos, scene, write_json, write_palette
from tests.extract.refusals import refused
from tests.extract.stage_one import edit


@pytest.fixture
def root(tmp_path):
    return make_ref_youtube_vos(tmp_path)


def sentences(root, split="train"):
    return root / "meta_expressions" / split / "meta_expressions.json"


def masks(root, video_id="a0", split="train"):
    return sorted((root / split / "Annotations" / video_id).iterdir())


def test_reads_sentences_categories_and_masks(root):
    data = RefYouTubeVOS(root, "train")
    assert DATASETS["ref_youtube_vos"] is RefYouTubeVOS
    assert data.ids == ["a0", "a1"] and len(data) == 2
    assert [video.id for video in data] == ["a0", "a1"]
    video = data.video("a1")
    assert video.frame_names == ["00000", "00005", "00010", "00015"]
    assert video.size() == SIZE and video.read_frame(3).shape == (*SIZE, 3)
    assert video.categories == {"1": "box", "2": "box"}
    first = video.expressions[1]
    assert (first.id, first.text) == ("1", "the  Red Box that slides along")
    assert first.object_ids == first.annotation_ids == ["1"]
    labels = scene("a1")[1]
    assert set(video.objects) == {"1", "2"}
    for key, rles in video.objects.items():
        assert np.array_equal([coco.decode(rle) for rle in rles], labels == int(key))


def test_valid_is_without_the_videos_of_test(root):
    assert json.loads(sentences(root, "valid").read_text())["videos"].keys() == {"v0", "t0", "v1"}
    data = RefYouTubeVOS(root, "valid")
    assert data.ids == ["v0", "v1"] and len(data) == 2
    assert RefYouTubeVOS(root, "test").ids == ["t0"]
    assert set(data.fingerprint()) == {
        "meta_expressions/valid/meta_expressions.json",
        "meta_expressions/test/meta_expressions.json",
    }
    video = data.video("v0")
    assert video.objects == {} and video.expressions[0].annotation_ids == []


def test_a_valid_list_too_long_to_be_reduced_already_needs_that_of_test(root):
    shutil.rmtree(sentences(root, "test").parent)
    assert RefYouTubeVOS(root, "valid").ids == ["v0", "t0", "v1"]

    def lengthen(meta):
        meta["videos"] |= {f"x{i}": meta["videos"]["v0"] for i in range(200)}

    edit(sentences(root, "valid"), lengthen)
    refused(lambda: RefYouTubeVOS(root, "valid"), "203 videos", "test", "does not exist")


def test_valid_has_objects_where_all_of_its_masks_are_there(tmp_path):
    root = make_ref_youtube_vos(tmp_path, valid_masks=True)
    data = RefYouTubeVOS(root, "valid")
    assert set(data.video("v0").objects) == {"1", "2"}
    assert data.video("v0", objects=False).objects == {}
    for path in masks(root, "v1", "valid")[1:]:  # what YouTube-VOS hands out
        path.unlink()
    assert data.video("v1").objects == {}
    edit(sentences(root, "valid"), lambda m: m["videos"]["v0"]["expressions"]["0"].pop("obj_id"))
    assert RefYouTubeVOS(root, "valid").video("v0").objects == {}


def test_masks_need_no_images_and_opening_no_masks(root):
    shutil.rmtree(root / "train" / "JPEGImages")
    assert RefYouTubeVOS(root, "train").video("a0").objects["1"][0]["size"] == list(SIZE)
    for path in masks(root):
        path.write_bytes(b"")
    data = RefYouTubeVOS(root, "train")
    refused(lambda: data.video("a0"), "video a0", str(masks(root)[0]), "not an image")
    assert data.video("a1").objects


def test_a_target_that_no_mask_shows_is_absent_from_every_frame(root):
    for path in masks(root):
        labels = np.array(Image.open(path))
        write_palette(path, np.where(labels == 2, 0, labels).astype(np.uint8))
    assert RefYouTubeVOS(root, "train").video("a0").objects["2"] == [None] * 4


def test_fingerprint_follows_the_text(root):
    before = RefYouTubeVOS(root, "train").fingerprint()
    assert set(before) == {"meta_expressions/train/meta_expressions.json", "train/meta.json"}
    edit(root / "train" / "meta.json", lambda meta: meta.update(note=1))
    after = RefYouTubeVOS(root, "train").fingerprint()
    assert [key for key in before if before[key] != after[key]] == ["train/meta.json"]


@pytest.mark.parametrize("value", ["0", "255", "1.5", -1, True, None, ["1"], "²", "1" * 9])
def test_ids_that_no_object_can_have(root, value):
    edit(sentences(root), lambda m: m["videos"]["a0"]["expressions"]["2"].update(obj_id=value))
    data = RefYouTubeVOS(root, "train")
    refused(lambda: data.video("a0"), "'a0'", "'2'", "obj_id")
    assert data.video("a1").num_frames == 4


def test_the_two_files_must_be_of_one_release(root):
    edit(sentences(root), lambda m: m["videos"]["a0"]["expressions"]["2"].update(obj_id="3"))
    refused(lambda: RefYouTubeVOS(root, "train").video("a0"), "object 3", "meta.json", "'2'")


@pytest.mark.parametrize(
    "objects", [[], {"1": {}}, {"1": {"category": 3}}, {"one": {"category": "x"}}]
)
def test_bad_categories_stop_only_their_video(root, objects):
    edit(root / "train" / "meta.json", lambda m: m["videos"].update(a0={"objects": objects}))
    data = RefYouTubeVOS(root, "train")
    refused(lambda: data.video("a0"), "'a0'", "meta.json")
    assert data.video("a1").num_frames == 4


def test_bad_masks(root):
    data, path = RefYouTubeVOS(root, "train"), masks(root)[2]

    def bad(*words):
        refused(lambda: data.video("a0"), "video a0", str(path), *words)

    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    bad("broken")
    Image.fromarray(np.zeros((*SIZE, 3), np.uint8)).save(path)
    bad("RGB", "not of object ids")
    write_palette(path, np.zeros((24, 64), np.uint8))
    bad("24x64", "48x64")
    path.unlink()
    bad("does not exist")
    path.symlink_to(path)
    bad("cannot be read")


def test_missing_files_and_folders(root):
    refused(lambda: RefYouTubeVOS(root / "gone", "train"), "gone", "does not exist")
    refused(lambda: RefYouTubeVOS(root, "../train"), "../train")
    refused(lambda: RefYouTubeVOS(root, "valid_u"), "valid_u", "does not exist")
    shutil.rmtree(root / "train" / "Annotations")
    refused(lambda: RefYouTubeVOS(root, "train"), "Annotations", "does not exist")
    write_json(root / "train" / "meta.json", {"videos": []})
    (root / "train" / "Annotations").mkdir()
    refused(lambda: RefYouTubeVOS(root, "train"), "meta.json", '"videos"')
    write_json(sentences(root, "test"), json.loads(sentences(root, "valid").read_text()))
    refused(lambda: RefYouTubeVOS(root, "valid"), "all videos", "test")


@pytest.mark.parametrize("video_id", ["../a0", "/etc", "..", ""])
def test_a_video_id_cannot_leave_the_folder(root, video_id):
    edit(sentences(root), lambda m: m["videos"].update({video_id: m["videos"]["a0"]}))
    refused(lambda: RefYouTubeVOS(root, "train").video(video_id), "leave the folder")
