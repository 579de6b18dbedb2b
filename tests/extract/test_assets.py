"""The models that the repository ships: small, loaded as any others, and good for the demo."""

import numpy as np
import pytest
import torch
from stage_one import DEMO, prepare

from extract.config import load_config
from extract.demo.world import make_scene
from extract.segmenters.masks import mask_logits, to_original
from extract.stage import load_stage

ASSETS = DEMO.parents[1] / "assets"
SCENES = [make_scene((0, 2, number)) for number in range(4)]  # of the split valid_u


@pytest.fixture(scope="module")
def stage():
    weights = str(ASSETS / "vita_tiny.safetensors")
    return load_stage(load_config(DEMO), weights, "cpu", has_text=True)


def queries_of(stage, frames: np.ndarray):
    """Frame queries (T, N_f, C), mask features (T, C, h, w) and the geometry of a video."""
    prepared = [prepare(stage.preprocess, frame) for frame in frames]
    output = stage.segmenter.frames(torch.stack([image for image, _ in prepared]))[0]
    return output.frame_queries, output.mask_features, prepared[0][1]


def test_they_are_small():
    sizes = {p: p.stat().st_size for p in ASSETS.rglob("*") if p.is_file()}
    vita = sizes.pop(ASSETS / "vita_tiny.safetensors")
    assert vita <= 8e6 and sum(sizes.values()) <= 4e6


def test_the_segmenter_finds_the_objects_of_the_demo(stage):
    overlaps = []
    for scene in SCENES:
        frames, truth = scene.draw()  # (T, H, W, 3), (T, N, H, W)
        queries, features, geometry = queries_of(stage, frames)
        embeds = stage.segmenter.video(queries[None]).mask_embeds[0]
        masks = (to_original(mask_logits(features, embeds), geometry) > 0).numpy()
        for n in range(truth.shape[1]):
            true = truth[:, n : n + 1]
            shared = (masks & true).sum(axis=(0, 2, 3)) / (masks | true).sum(axis=(0, 2, 3))
            overlaps.append(shared.max())
    assert np.mean(overlaps) > 0.8


def test_a_video_played_backwards_has_the_same_video_queries(stage):
    """12 frames are a multiple of the window: nothing in VITA knows which way time runs."""
    queries = queries_of(stage, SCENES[0].draw()[0])[0]
    forth, back = (stage.segmenter.video(q[None]).video_queries for q in (queries, queries.flip(0)))
    assert (forth - back).abs().max() < 1e-4
    assert forth.abs().max() > 1


def test_the_text_side_tells_motion_from_static_words(stage):
    (encoded,) = stage.text.encode(["the red circle that slides to the left"])
    words = ["the", "red", "circle", "that", "slides", "to", "the", "left"]
    text = "the red circle that slides to the left"
    marked = {text[a:b].strip() for (a, b), m in zip(encoded.offsets, encoded.motion, strict=True)
              if m}  # fmt: skip
    assert marked == {"slides"} and len(encoded.words) >= len(words)
