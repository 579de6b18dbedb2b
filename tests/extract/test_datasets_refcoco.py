"""RefCOCO on disk: a pickle, instances.json, and the pseudo-videos that are made of them."""

import io
import json
import os
import pickle
import shutil

import numpy as np
import pytest
from pycocotools import mask as coco

from extract.datasets import DATASETS, RefCOCO, RefCOCOg, RefCOCOPlus
from tests.datasets_standins import SIZE, make_refcoco, write_json
from tests.extract.refusals import refused
from tests.extract.stage_one import edit


@pytest.fixture
def root(tmp_path):
    return make_refcoco(tmp_path, images=3)


def refs_path(root, partition="unc"):
    return root / "refcoco" / f"refs({partition}).p"


def edit_refs(root, change):
    refs = pickle.loads(refs_path(root).read_bytes())
    change(refs)
    refs_path(root).write_bytes(pickle.dumps(refs))


def edit_annotation(root, **changes):
    path = root / "refcoco" / "instances.json"
    edit(path, lambda content: content["annotations"][0].update(changes))


def test_names_splits_and_partitions(root):
    assert DATASETS["refcoco"] is RefCOCO
    assert DATASETS["refcoco+"] is RefCOCOPlus and DATASETS["refcocog"] is RefCOCOg
    assert RefCOCO(root, "train").ids == ["100_0", "101_0"]
    assert RefCOCO(root, "val").ids == ["102_0"]
    assert RefCOCO(root, "train@google").ids == ["100_0", "101_0", "102_0"]
    assert RefCOCOPlus(root, "train").ids == RefCOCOg(root, "train@umd").ids
    assert RefCOCO.splits(root) == ["train", "val", "train@google", "val@google"]
    assert RefCOCOPlus.splits(root) == ["train", "val"]
    refused(lambda: RefCOCO(root, "testA"), "'testA'", "train, val")
    refused(lambda: RefCOCO(root, None), "no split")
    refused(lambda: RefCOCOPlus(root, "train@google"), "'google'", "unc")
    refused(lambda: RefCOCO(root, "train@../x"), "'../x'", "unc, google")


def test_sentences_and_masks_go_with_the_image(root):
    data = RefCOCO(root, "train", variants=12, frames=5)
    assert len(data) == 24 and data.ids[:2] == ["100_0", "100_1"]
    videos = [data.video(f"100_{k}") for k in range(12)]
    flips = set()
    for video in videos:
        assert video.frame_names == [f"{t:05d}" for t in range(5)]
        assert [e.id for e in video.expressions] == ["0", "1", "10", "11"]
        assert [e.annotation_ids for e in video.expressions] == [["1001"]] * 2 + [["1002"]] * 2
        texts = [e.text for e in video.expressions]
        flipped = video.frames.warp.flipped
        flips.add(flipped)
        plain, mirror = ["left red box", "box on the right"], ["right red box", "box on the left"]
        assert texts == (mirror if flipped else plain) * 2
        images = np.array([video.read_frame(t) for t in range(5)]).astype(int)
        red = (images[..., 0] > 160) & (images[..., 2] < 120)
        masks = np.array([coco.decode(rle) for rle in video.objects["1001"]]).astype(bool)
        assert masks.shape[1:] == video.size() and (red & masks).sum() > 0.9 * (red | masks).sum()
    assert flips == {True, False}


def test_variants_depend_on_image_variant_and_seed_only(root):
    def maps(data, video_id):
        return data.video(video_id).frames.warp.maps

    one = RefCOCO(root, "train", variants=2)
    assert np.array_equal(maps(one, "100_1"), maps(RefCOCO(root, "train", variants=3), "100_1"))
    assert np.array_equal(maps(one, "100_1"), maps(RefCOCOPlus(root, "train", variants=2), "100_1"))
    assert not np.array_equal(maps(one, "100_0"), maps(one, "100_1"))
    assert not np.array_equal(maps(one, "100_0"), maps(one, "101_0"))
    assert not np.array_equal(maps(one, "100_0"), maps(RefCOCO(root, "train", seed=1), "100_0"))


def test_without_objects_a_clip_is_the_same(root):
    data = RefCOCO(root, "train", variants=12)
    for k in range(12):
        bare, full = (data.video(f"100_{k}", objects=wanted) for wanted in (False, True))
        assert bare.objects == {} and bare.expressions == full.expressions
        assert np.array_equal(bare.read_frame(3), full.read_frame(3))


def test_fingerprint_has_files_and_settings(root):
    before = RefCOCO(root, "train").fingerprint()
    assert set(before) == {"refcoco/refs(unc).p", "refcoco/instances.json", "variants"}
    assert RefCOCO(root, "train", variants=2).fingerprint() != before
    assert RefCOCO(root, "train", frames=5).fingerprint() != before
    assert RefCOCO(root, "train", seed=5).fingerprint() != before
    json.dumps(before)


def test_images_where_refer_puts_them(root):
    (root / "images" / "mscoco" / "images").mkdir(parents=True)
    (root / "train2014").rename(root / "images" / "mscoco" / "images" / "train2014")
    assert RefCOCO(root, "train").video("100_0").read_frame(0).ndim == 3
    shutil.rmtree(root / "images")
    refused(lambda: RefCOCO(root, "train"), "train2014", "does not exist")


def test_opening_and_masks_need_no_images(root):
    for path in (root / "train2014").iterdir():
        path.unlink()
    video = RefCOCO(root, "train").video("100_0")
    assert any(video.objects["1001"])
    refused(lambda: video.read_frame(0), "100_0", "COCO_train2014_000000000100.jpg", "not exist")


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_no_code_of_a_pickle_runs(root, tmp_path, protocol):
    target = tmp_path / "made"
    refs = pickle.loads(refs_path(root).read_bytes())
    refs[0]["raw"] = Evil(target)
    refs_path(root).write_bytes(pickle.dumps(refs, protocol))
    refused(lambda: RefCOCO(root, "train"), "refs(unc).p", "mkdir", "plain lists and dicts")
    assert not target.exists()


def test_other_ways_out_of_a_pickle(root):
    class Persistent(pickle.Pickler):
        def persistent_id(self, value):
            return "elsewhere" if value == "train" else None

    buffer = io.BytesIO()
    Persistent(buffer).dump(["train"])
    extension, array = b"\x80\x02\x82\x05.", pickle.dumps([np.float64(1)])
    whole = refs_path(root).read_bytes()
    for data in (buffer.getvalue(), extension, array, b"", b"junk", whole[: len(whole) // 2]):
        refs_path(root).write_bytes(data)
        refused(lambda: RefCOCO(root, "train"), "refs(unc).p", "plain lists and dicts")
    refs_path(root).unlink()
    refused(lambda: RefCOCO(root, "train"), "refs(unc).p", "does not exist")


def test_byte_strings_of_python_2(root):
    """`U` is how Python 2 pickled its strings; here UTF-8, and once broken."""
    old = b"(lp0\n(dp1\nS'split'\nU\x05trainsS'image_id'\nI100\nsS'ann_id'\nI1001\ns"
    old += b"S'sentences'\n(lp2\n(dp3\nS'sent_id'\nI7\nsS'sent'\nU\x0bcaf\xc3\xa9 left\xffsasa."
    refs_path(root).write_bytes(old)
    (expression,) = RefCOCO(root, "train").video("100_0").expressions
    assert (expression.id, expression.text.split()[0]) == ("7", "café")


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda refs: refs.clear(), ["not a list of references"]),
        (lambda refs: refs.__setitem__(1, "x"), ["number 1", "not a dict"]),
        (lambda refs: refs[2].pop("image_id"), ["number 2", "image_id"]),
        (lambda refs: refs[2].update(image_id="../1"), ["number 2", "image_id"]),
        (lambda refs: refs[2].update(ann_id=True), ["number 2", "ann_id"]),
        (lambda refs: refs[2].update(split=3), ["number 2", "split"]),
        (lambda refs: refs[2].update(sentences=[]), ["number 2", "sentences"]),
        (lambda refs: refs[2].update(sentences=[{"sent": "x"}]), ["number 2", "sent_id"]),
        (lambda refs: refs[2]["sentences"][0].update(sent=" "), ["number 2", "sent"]),
    ],
)
def test_references_of_another_shape(root, change, words):
    edit_refs(root, change)
    refused(lambda: RefCOCO(root, "train"), "refs(unc).p", *words)


def test_a_sentence_that_stands_twice_stops_only_its_image(root):
    edit_refs(root, lambda refs: refs[1]["sentences"][0].update(sent_id=0))
    data = RefCOCO(root, "train")
    refused(lambda: data.video("100_0"), "100_0", "sentence 0", "twice")
    assert data.video("101_0").expressions


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"segmentation": []}, ["neither"]),
        ({"segmentation": [[1, 2, 3, 4]]}, ["three or more"]),
        ({"segmentation": [[1, 2, 3, 4, 5, 6, 7]]}, ["three or more"]),
        ({"segmentation": [[1, 2, 3, 4, 5, "6"]]}, ["numbers"]),
        ({"segmentation": [[1, 2, 3, 4, 5, float("nan")]]}, ["numbers"]),
        ({"segmentation": [[1, 2, 3, 4, 5, 1e12]]}, ["far beyond", "48x64"]),
        ({"segmentation": {"size": [64, 48], "counts": [3072]}}, ["[48, 64]"]),
        ({"segmentation": {"size": [48, 64], "counts": [3071]}}, ["wrong run lengths"]),
        ({"segmentation": {"size": [48, 64], "counts": [-1, 3073]}}, ["wrong run lengths"]),
        ({"segmentation": {"size": [48, 64], "counts": "PP"}}, ["counts"]),
        ({"image_id": 101}, ["another image"]),
        ({"id": 5}, ["1001", "missing"]),
    ],
)
def test_bad_annotations_stop_only_their_image(root, changes, words):
    edit_annotation(root, **changes)
    data = RefCOCO(root, "train")
    refused(lambda: data.video("100_0"), "video 100_0", "instances.json", *words)
    assert data.video("101_0").objects


def test_run_lengths_of_crowds(root):
    counts = [48 * 20, 48 * 10, 48 * 34]
    masks = []
    for segmentation in (
        {"size": list(SIZE), "counts": counts},
        coco.frPyObjects({"size": list(SIZE), "counts": counts}, *SIZE),
        [[20.0, 0.0, 30.0, 0.0, 30.0, 48.0, 20.0, 48.0]],
    ):
        if isinstance(segmentation, dict) and isinstance(segmentation["counts"], bytes):
            segmentation["counts"] = segmentation["counts"].decode()
        edit_annotation(root, segmentation=segmentation)
        masks.append(RefCOCO(root, "train").video("100_0").objects["1001"])
    assert masks[0] == masks[1] == masks[2]


@pytest.mark.parametrize("name", ["../x.jpg", "/etc/passwd", "", None, "a\\b"])
def test_an_image_cannot_lie_elsewhere(root, name):
    path = root / "refcoco" / "instances.json"
    edit(path, lambda content: content["images"][0].update(file_name=name))
    data = RefCOCO(root, "train")
    refused(lambda: data.video("100_0"), "100_0", "file_name")
    assert data.video("101_0").num_frames == 10


@pytest.mark.parametrize("height", [0, -3, 48.0, True, 1 << 20, None])
def test_sizes_that_no_image_has(root, height):
    path = root / "refcoco" / "instances.json"
    edit(path, lambda content: content["images"][0].update(height=height))
    refused(lambda: RefCOCO(root, "train").video("100_0"), "100_0", '"height"')


def test_instances_of_another_shape(root):
    path = root / "refcoco" / "instances.json"
    content = json.loads(path.read_text())
    for bad, words in [
        ([], ['"images"']),
        (content | {"annotations": {}}, ['"annotations"']),
        (content | {"images": [3]}, ['"images"']),
        (content | {"images": content["images"] * 2}, ["100", "twice", '"images"']),
        (content | {"annotations": content["annotations"] * 2}, ["1001", "twice"]),
    ]:
        write_json(path, bad)
        refused(lambda: RefCOCO(root, "train"), "instances.json", *words)
    write_json(path, content | {"images": content["images"][1:]})
    refused(lambda: RefCOCO(root, "train").video("100_0"), "image 100", "missing")
    path.write_text('{"images": [], "images": []}')
    refused(lambda: RefCOCO(root, "train"), "instances.json", "'images'", "twice")
    path.unlink()
    refused(lambda: RefCOCO(root, "train"), "instances.json", "does not exist")
    refused(lambda: RefCOCOg(root / "gone", "train"), "gone", "does not exist")
