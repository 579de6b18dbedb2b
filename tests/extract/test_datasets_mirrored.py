"""Videos a second time, mirrored: frames, masks and sentences go together."""

import numpy as np
import pytest
from pycocotools import mask as coco
from stage_one import small_config, small_data

from cache_schema.host.cli import InputError
from cache_schema.reader import CacheReader
from extract.datasets import MeViS
from extract.datasets.mirrored import Mirrored, mirrored
from extract.pipeline.run import extract


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return small_data(tmp_path_factory.mktemp("mirror"), videos=3)


@pytest.mark.parametrize("words", [True, False])
def test_frames_masks_and_sentences_of_a_mirrored_video(data, words):
    dataset = MeViS(data, "train")
    both = Mirrored(dataset, words=words)
    assert both.ids[::2] == dataset.ids and len(both) == 2 * len(dataset)
    for name in dataset.ids:
        own, other = both.video(name), both.video(f"{name}.mirrored")
        assert other.id == f"{name}.mirrored" and other.size() == own.size()
        for t in (0, own.num_frames - 1):
            assert np.array_equal(other.read_frame(t), own.read_frame(t)[:, ::-1])
        assert own.objects.keys() == other.objects.keys()
        for annotation in own.objects:
            for mask, image in zip(own.objects[annotation], other.objects[annotation], strict=True):
                assert (mask is None) == (image is None)
                if mask:
                    assert np.array_equal(coco.decode(image), coco.decode(mask)[:, ::-1])
        for sentence, image in zip(own.expressions, other.expressions, strict=True):
            assert image.text == (mirrored(sentence.text) if words else sentence.text)
            assert image.annotation_ids == sentence.annotation_ids
    texts = {each.text for name in both.ids for each in both.video(name).expressions}
    assert ("the yellow object travelling to the right" in texts) == words


def test_a_cache_holds_both_and_says_so(data, tmp_path):
    config = small_config(mirror="words", **{"text": None})
    extract(config, data_root=data, split="train", weights="random", out=tmp_path, device="cpu")
    cache = CacheReader(tmp_path)
    assert len(cache) == 2 * len(MeViS(data, "train"))
    assert cache.fingerprint["mirror"] == "words"
    name = cache.video_ids[0]
    boxes = [cache.video(each).objects() for each in (name, f"{name}.mirrored")]
    for masks, images in zip(*(each.values() for each in boxes), strict=True):
        for mask, image in zip(masks, images, strict=True):
            if mask:
                assert np.array_equal(coco.decode(image), coco.decode(mask)[:, ::-1])


def test_what_is_mirrored_already_is_refused(data):
    with pytest.raises(InputError, match=r"mirrored already: leave the key mirror out"):
        Mirrored(Mirrored(MeViS(data, "train"), words=True), words=True)


@pytest.mark.parametrize(
    "text, other",
    [
        ("left red box", "right red box"),
        ("Right man, not the LEFT one", "Left man, not the RIGHT one"),
        ("the leftmost cup of a right-handed man", "the rightmost cup of a left-handed man"),
        ("lefty", "righty"),
        ("leftovers in bright light upright", "leftovers in bright light upright"),
        ("turns Clockwise, not counterclockwise", "turns Counterclockwise, not clockwise"),
        ("a dog", "a dog"),
    ],
)
def test_sentences_of_mirrored_images(text, other):
    assert mirrored(text) == other
    assert mirrored(other) == text
