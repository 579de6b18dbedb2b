"""Ref-DAVIS17 on disk: two layouts, four sentences an object, void pixels, misspelt names."""

import shutil

import numpy as np
import pytest
from pycocotools import mask as coco

from extract.datasets import DATASETS, RefDAVIS
from tests.datasets_standins import DAVIS_FILES, SENTENCES, SIZE, make_ref_davis, scene
from tests.extract.refusals import refused
from tests.extract.stage_one import edit


@pytest.fixture(params=[True, False], ids=["raw", "prepared"])
def root(request, tmp_path):
    return make_ref_davis(tmp_path, raw=request.param)


@pytest.fixture
def raw(tmp_path):
    return make_ref_davis(tmp_path, raw=True)


@pytest.fixture
def prepared(tmp_path):
    return make_ref_davis(tmp_path, raw=False)


def rewrite(root, number, change):
    path = root / "davis_text_annotations" / DAVIS_FILES[number]
    path.write_text(change(path.read_text()))


def test_reads_sentences_and_masks(root):
    assert DATASETS["ref_davis"] is RefDAVIS
    data = RefDAVIS(root, "valid")
    assert data.ids == RefDAVIS(root, "val").ids == ["bear", "twins"] and len(data) == 2
    video = data.video("twins")
    assert video.frame_names == ["00000", "00001", "00002", "00003"]
    assert video.size() == SIZE and video.read_frame(3).shape == (*SIZE, 3)
    labels = scene("twins")[1]
    assert set(video.objects) == {"1", "2"}
    for key, rles in video.objects.items():
        assert np.array_equal([coco.decode(rle) for rle in rles], labels == int(key))


def test_expression_number_is_object_times_four_plus_annotator(root):
    expressions = RefDAVIS(root, "valid").video("twins").expressions
    assert [e.id for e in expressions] == [str(i) for i in range(8)]
    for i, expression in enumerate(expressions):
        k, annotator = divmod(i, 4)
        assert expression.text.split() == SENTENCES[k + 1][annotator].split()
        assert expression.object_ids == expression.annotation_ids == [str(k + 1)]


def test_void_is_kept_and_meant_by_nobody(root):
    video = RefDAVIS(root, "valid").video("bear")
    void = np.array([coco.decode(rle) for rle in video.objects["255"]])
    assert np.array_equal(void, scene("bear")[1] == 2)
    assert {i for e in video.expressions for i in e.annotation_ids} == {"1"}


def test_misspelt_sequences_are_found(raw):
    text = (raw / "davis_text_annotations" / DAVIS_FILES[0]).read_text()
    assert "clasic-car" in text and "classic-car" not in text
    assert len(RefDAVIS(raw, "train").video("classic-car").expressions) == 8


def test_lines_in_any_order_tenth_object_after_the_second(raw):
    for number in range(4):
        rewrite(raw, number, lambda text: 'twins 10 "one more"\n' + text)
    expressions = RefDAVIS(raw, "valid").video("twins").expressions
    assert [e.object_ids[0] for e in expressions[::4]] == ["1", "2", "10"]


def test_text_of_the_second_annotator_is_not_utf_8(raw):
    path = raw / "davis_text_annotations" / DAVIS_FILES[2]
    path.write_bytes(path.read_bytes().replace(b'"a red thing"', b'"a caf\xe9\x85 \xabsign\xbb"'))
    assert RefDAVIS(raw, "valid").video("bear").expressions[2].text == "a café\x85 «sign»"


def test_quotes_are_not_part_of_a_sentence_and_may_be_missing(raw):
    rewrite(raw, 0, lambda text: text.replace('"the red box moving right"', "the red box"))
    assert RefDAVIS(raw, "valid").video("bear").expressions[0].text == "the red box"


def test_annotators_who_do_not_pair_up_stop_only_their_video(raw):
    rewrite(raw, 3, lambda text: text.replace('twins 2 "blue box"\n', ""))
    data = RefDAVIS(raw, "valid")
    refused(lambda: data.video("twins"), "video twins", "davis_text_annotations", "same objects")
    assert len(data.video("bear").expressions) == 4


@pytest.mark.parametrize(
    "line", ["twins", "twins 2", 'twins two "x"', 'twins 255 "x"', 'twins 1 ""']
)
def test_lines_that_say_no_object_and_sentence(raw, line):
    rewrite(raw, 1, lambda text: text + line + "\n")
    refused(lambda: RefDAVIS(raw, "valid"), DAVIS_FILES[1], "line 6", line)


def test_the_unsupervised_annotations_are_preferred_and_others_do(raw):
    davis = raw / "DAVIS"
    shutil.copytree(davis / "Annotations_unsupervised", davis / "Annotations")
    assert RefDAVIS(raw, "val").annotations == davis / "Annotations_unsupervised" / "480p"
    shutil.rmtree(davis / "Annotations_unsupervised")
    assert set(RefDAVIS(raw, "val").video("twins").objects) == {"1", "2"}
    shutil.rmtree(davis / "Annotations")
    refused(lambda: RefDAVIS(raw, "val"), "Annotations_unsupervised", "does not exist")


def test_root_may_be_the_folder_of_davis(raw):
    for path in (raw / "DAVIS").iterdir():
        path.rename(raw / path.name)
    (raw / "DAVIS").rmdir()
    assert len(RefDAVIS(raw, "val").video("twins").expressions) == 8
    assert RefDAVIS.splits(raw) == ["train", "valid"]


def test_splits_that_are_there(root, tmp_path):
    assert RefDAVIS.splits(root) == ["train", "valid"]
    assert RefDAVIS.splits(tmp_path / "gone") == []


def test_masks_need_no_images(root):
    for folder in list(root.rglob("JPEGImages")):
        shutil.rmtree(folder)
    video = RefDAVIS(root, "valid").video("twins")
    assert video.num_frames == 4 and video.objects["1"][0]["size"] == list(SIZE)


def test_davis_without_sentences(raw):
    shutil.rmtree(raw / "davis_text_annotations")
    refused(lambda: RefDAVIS(raw, "val"), DAVIS_FILES[0], "does not exist")
    video = RefDAVIS(raw, "val", sentences=False).video("twins")
    assert video.expressions == [] and set(video.objects) == {"1", "2"}


def test_every_frame_has_a_mask(root):
    path = sorted((RefDAVIS(root, "valid").annotations / "twins").iterdir())[1]
    path.unlink()
    data = RefDAVIS(root, "valid")
    refused(lambda: data.video("twins"), "video twins", str(path), "does not exist")
    assert data.video("bear").objects


def test_a_missing_image_is_no_shorter_video_and_hidden_files_are_no_frames(raw):
    for folder in (raw / "DAVIS/JPEGImages/480p", raw / "DAVIS/Annotations_unsupervised/480p"):
        for name in ("._00000.jpg", "._00000.png", ".DS_Store"):
            (folder / "twins" / name).write_bytes(b"a Mac was here")
    assert RefDAVIS(raw, "val").video("twins").num_frames == 4
    path = raw / "DAVIS/JPEGImages/480p/twins/00002.jpg"
    path.unlink()
    video = RefDAVIS(raw, "val").video("twins")
    assert video.num_frames == 4
    refused(lambda: video.read_frame(2), "video twins", str(path), "does not exist")


def test_fingerprint_names_every_file_of_text(raw):
    assert set(RefDAVIS(raw, "val").fingerprint()) == {
        "DAVIS/ImageSets/2017/val.txt",
        *(f"davis_text_annotations/{name}" for name in DAVIS_FILES),
    }
    before = RefDAVIS(raw, "val").fingerprint()
    rewrite(raw, 1, lambda text: text.replace("slides", "glides"))
    after = RefDAVIS(raw, "val").fingerprint()
    assert [key for key in before if before[key] != after[key]] == [
        f"davis_text_annotations/{DAVIS_FILES[1]}"
    ]


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda e: e.pop("3"), ["4K-1"]),
        (lambda e: e.update(x=e.pop("0")), ["4K-1"]),
        (lambda e: e.update({str(i): e["0"] for i in (8, 9)}), ["4K-1"]),
        (lambda e: e["5"].update(obj_id="1"), ["'5'", "obj_id"]),
        (lambda e: e["0"].update(obj_id="255"), ["'0'", "'255'"]),
        (lambda e: e["0"].pop("obj_id"), ["'0'", "None"]),
    ],
)
def test_prepared_sentences_out_of_order(prepared, change, words):
    path = prepared / "meta_expressions" / "valid" / "meta_expressions.json"
    edit(path, lambda meta: change(meta["videos"]["twins"]["expressions"]))
    data = RefDAVIS(prepared, "valid")
    refused(lambda: data.video("twins"), "'twins'", *words)
    assert len(data.video("bear").expressions) == 4


def test_prepared_sentences_are_put_in_order(prepared):
    path = prepared / "meta_expressions" / "valid" / "meta_expressions.json"

    def reverse(meta):
        expressions = meta["videos"]["twins"]["expressions"]
        meta["videos"]["twins"]["expressions"] = dict(reversed(expressions.items()))

    edit(path, reverse)
    expressions = RefDAVIS(prepared, "valid").video("twins").expressions
    assert [e.id for e in expressions] == [str(i) for i in range(8)]
    assert [e.object_ids[0] for e in expressions] == ["1"] * 4 + ["2"] * 4


def test_bad_lists_of_videos(raw):
    path = raw / "DAVIS" / "ImageSets" / "2017" / "val.txt"
    path.write_text("../../twins\n")
    refused(lambda: RefDAVIS(raw, "val").video("../../twins"), "../../twins", "plain names")
    path.write_text("bear\nbear\n")
    refused(lambda: RefDAVIS(raw, "val"), str(path), "twice")
    path.write_text("\n")
    refused(lambda: RefDAVIS(raw, "val"), str(path), "no videos")
    path.write_text("gone\n")
    refused(lambda: RefDAVIS(raw, "val").video("gone"), "gone", "no JPEGs")
    path.unlink()
    refused(lambda: RefDAVIS(raw, "valid"), "val.txt", "meta_expressions")
    refused(lambda: RefDAVIS(raw, "../val"), "../val")
