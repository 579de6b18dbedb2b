"""The demo world: deterministic, in the MeViS layout, with sentences that mean what they say."""

import json
from functools import partial

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco

from cache_schema.host.cli import InputError
from extract.demo import grammar
from extract.demo.layout import write_split
from extract.demo.world import FRAMES, HABITS, KINDS, MARGIN, SCALE, SPIN, TRAVEL, make_scene
from train.evaluation.parallel import run

SCENES = [make_scene((3, 1, number)) for number in range(120)]


def test_a_scene_is_a_function_of_its_seed():
    again = make_scene((3, 1, 5))
    assert again == SCENES[5]
    assert SCENES[4] != SCENES[5]
    for one, two in zip(again.draw(), SCENES[5].draw(), strict=True):
        assert np.array_equal(one, two)


def test_frames_drawn_alone_equal_those_drawn_together():
    frames, masks = SCENES[0].draw()
    some_frames, some_masks = SCENES[0].draw([3, 7])
    assert np.array_equal(some_frames, frames[[3, 7]])
    assert np.array_equal(some_masks, masks[[3, 7]])


def test_objects_stay_inside_and_apart():
    for scene in SCENES[:30]:
        _, masks = scene.draw()
        assert masks.any(axis=(2, 3)).all()  # everything is visible in every frame
        assert not masks[..., [0, -1], :].any() and not masks[..., [0, -1]].any()
        paths = masks.any(axis=0)  # (N, H, W)
        for n, path in enumerate(paths):
            grown = cv2.dilate(path.astype(np.uint8), np.ones((MARGIN, MARGIN), np.uint8))
            assert not any((grown & other).any() for m, other in enumerate(paths) if m != n)


def test_motion_is_what_it_is_called():
    for scene in SCENES[:40]:
        _, masks = scene.draw([0, FRAMES - 1])
        for n, shape in enumerate(scene.shapes):
            (y0, x0), (y1, x1) = (np.argwhere(m[n]).mean(axis=0) for m in masks)
            first, last = (m[n].sum() for m in masks)
            dx, dy = TRAVEL.get(shape.motion, (0, 0))
            assert np.sign(round((x1 - x0) / 8)) == dx and np.sign(round((y1 - y0) / 8)) == dy
            if shape.motion in SCALE:
                assert (last > 1.5 * first) == (shape.motion == "grows")
                assert (first > 1.5 * last) == (shape.motion == "shrinks")
            assert (shape.turn != 0) == (shape.motion in SPIN)


def _nouns(text: str) -> tuple[set[str], set[str]]:
    words = {word.removesuffix("s") for word in text.split()}
    return words & set(grammar.COLOURS), words & set(grammar.SHAPES)


def _motion(text: str) -> str:
    """The motion whose phrase ends the sentence."""
    every = grammar.REVERSIBLE | grammar.IRREVERSIBLE
    for motion, phrases in every.items():
        for phrase in phrases:
            if text.endswith((f" {phrase}", f" {grammar.plural(phrase)}")):
                return motion
    return ""


def test_targets_are_exactly_the_objects_that_every_word_fits():
    for scene in SCENES:
        for sentence in scene.sentences:
            colours, shapes = _nouns(sentence.text)
            motion = _motion(sentence.text)
            fitting = tuple(
                n
                for n, s in enumerate(scene.shapes)
                if (not colours or s.colour in colours)
                and (not shapes or s.shape in shapes)
                and (not motion or motion in s.fits)
            )
            assert fitting == sentence.targets, sentence
            expected = (
                "static"
                if not motion
                else "reversible"
                if motion in grammar.REVERSIBLE
                else "irreversible"
            )
            assert sentence.tag == expected


def test_motion_sentences_need_their_motion():
    """Some object fits the words other than the motion, but not the motion."""
    for scene in SCENES:
        for sentence in scene.sentences:
            if sentence.tag == "static":
                continue
            colours, shapes = _nouns(sentence.text)
            named = {
                n
                for n, s in enumerate(scene.shapes)
                if (not colours or s.colour in colours) and (not shapes or s.shape in shapes)
            }
            assert named > set(sentence.targets)


def test_every_irreversible_sentence_has_twins():
    seen = 0
    for scene in SCENES:
        for sentence in scene.sentences:
            if sentence.tag != "irreversible":
                continue
            seen += 1
            for target in sentence.targets:
                it = scene.shapes[target]
                assert any(
                    other.kind == it.kind and other.motion == grammar.OPPOSITE[it.motion]
                    for other in scene.shapes
                )
    assert seen > 50


def test_the_world_holds_what_a_test_of_language_needs():
    spoken = [sentence for scene in SCENES for sentence in scene.sentences]
    for tag in grammar.TAGS:
        assert sum(s.tag == tag for s in spoken) > 50
    assert sum(len(s.targets) > 1 for s in spoken) > 50
    assert 10 < sum(not s.targets for s in spoken) < len(spoken) / 4
    known = set(grammar.PART_OF_SPEECH)
    assert all(word in known for s in spoken for word in s.text.split())


def test_a_crowd_is_of_one_kind():
    crowds = [make_scene((3, 1, number), crowd=True) for number in range(20)]
    assert all(len({shape.kind for shape in scene.shapes}) == 1 for scene in crowds)
    assert max(len(scene.shapes) for scene in crowds) > 4


def test_a_label_says_kind_and_habit_but_not_which_way_time_runs():
    labels = {(s.kind, s.motion): s.label for scene in SCENES for s in scene.shapes}
    for (kind, motion), label in labels.items():
        assert KINDS[label // len(HABITS)] == kind
        opposite = labels.get((kind, grammar.OPPOSITE.get(motion)))
        assert opposite in (None, label)
    assert len(set(labels.values())) > 40


def test_layout_is_that_of_mevis(tmp_path):
    assert write_split(tmp_path, "valid_u", 2, seed=5)
    folder = tmp_path / "valid_u"
    meta = json.loads((folder / "meta_expressions.json").read_text())["videos"]
    masks = json.loads((folder / "mask_dict.json").read_text())
    assert len(meta) == 2
    for video, entry in meta.items():
        files = sorted(path.name for path in (folder / "JPEGImages" / video).iterdir())
        assert files == [f"{name}.jpg" for name in entry["frames"]]
        image = cv2.imread(str(folder / "JPEGImages" / video / files[0]))
        for expression in entry["expressions"].values():
            assert set(expression) == {"exp", "obj_id", "anno_id", "tag"}
            for anno_id in expression["anno_id"]:
                rles = masks[str(anno_id)]
                assert len(rles) == len(files)
                assert coco.decode(rles[0]).shape == image.shape[:2]
    write_split(tmp_path, "valid", 1, seed=5)
    assert not (tmp_path / "valid" / "mask_dict.json").exists()


def test_several_processes_draw_the_same(tmp_path):
    write_split(tmp_path / "one", "train", 3, seed=5)
    write_split(tmp_path / "two", "train", 3, seed=5, each=partial(run, workers=2))
    files = {path.relative_to(tmp_path / "one") for path in tmp_path.rglob("one/**/*.*")}
    assert len(files) == 3 * 12 + 3
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_data_that_are_there_are_reused_and_never_overwritten(tmp_path):
    write_split(tmp_path, "train", 1, seed=5)
    assert not write_split(tmp_path, "train", 1, seed=5)
    with pytest.raises(InputError, match="other data"):
        write_split(tmp_path, "train", 2, seed=5)


def test_an_unwritable_root_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write the demo data"):
        write_split(tmp_path / "file", "train", 1, seed=5)
