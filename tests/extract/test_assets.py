"""The models that the repository ships: small, loaded as any others, and good for the demo."""

import numpy as np
import pytest
import torch
from stage_one import DEMO, prepare

from extract.config import load_config
from extract.demo.world import make_scene
from extract.pipeline.inference import clip_of
from extract.segmenters.masks import mask_logits, to_original
from extract.stage import load_stage

ASSETS = DEMO.parents[1] / "assets"
SCENES = [make_scene((0, 2, number)) for number in range(4)]  # of the split valid_u


@pytest.fixture(scope="module")
def stage():
    weights = str(ASSETS / "vita_tiny.safetensors")
    return load_stage(load_config(DEMO), weights, "cpu", has_text=True)


def queries_of(stage, frames: np.ndarray):
    """Frame queries (T, N_f, C) of a video."""
    images = torch.stack([prepare(stage.preprocess, frame)[0] for frame in frames])
    return stage.segmenter.frames(images)[0].frame_queries


def test_they_are_small():
    sizes = {p: p.stat().st_size for p in ASSETS.rglob("*") if p.is_file()}
    vita = sizes.pop(ASSETS / "vita_tiny.safetensors")
    videomt = sizes.pop(ASSETS / "videomt_tiny" / "model.safetensors")
    assert vita <= 8e6 and videomt <= 6e6 and sum(sizes.values()) <= 4e6


@pytest.mark.parametrize("preset", ["demo", "demo_videomt"])
def test_the_segmenter_finds_the_objects_of_the_demo(preset, stage):
    if preset != "demo":
        stage = load_stage(load_config(preset), str(ASSETS / "videomt_tiny"), "cpu", has_text=False)
    overlaps = []
    for scene in SCENES:
        frames, truth = scene.draw()  # (T, H, W, 3), (T, N, H, W)
        prepared = [prepare(stage.preprocess, frame) for frame in frames]
        images, geometry = torch.stack([image for image, _ in prepared]), prepared[0][1]
        features, said = clip_of(stage.segmenter, [images])
        embeds = said.mask_embeds[0].expand(len(frames), -1, -1)  # (N, C), or of each frame
        each = zip(features.unsqueeze(1), embeds, strict=True)
        logits = torch.cat([mask_logits(frame, own) for frame, own in each])
        masks = (to_original(logits, geometry) > 0).numpy()
        for n in range(truth.shape[1]):
            true = truth[:, n : n + 1]
            either = (masks | true).sum(axis=(0, 2, 3))
            shared = (masks & true).sum(axis=(0, 2, 3)) / either.clip(1)
            overlaps.append(shared.max())
    assert np.mean(overlaps) > 0.75


def test_a_video_played_backwards_has_the_same_video_queries(stage):
    """12 frames are a multiple of the window: nothing in VITA knows which way time runs."""
    queries = queries_of(stage, SCENES[0].draw()[0])
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
