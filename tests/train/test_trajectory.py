"""Heads that know the order of frames, and where heads start."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from cache_schema.host.cli import InputError
from train.config import complete, load_config
from train.heads import CacheSizes, Head, HeadInputs, find_head
from train.heads.parts.trajectories import track_numbers

WIDTH, FRAMES, OBJECTS = 16, 6, 5
KEYS: dict[str, Any] = {
    "hidden_dim": WIDTH, "num_motion_queries": OBJECTS, "num_layers": 2, "num_heads": 4,
    "feedforward_dim": 24,
}  # fmt: skip
ORDERED = ["trajectory", "select"]


def mask_head(seed: int = 0) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    random = np.random.default_rng(seed)
    shapes = [(WIDTH, WIDTH), (WIDTH, WIDTH), (8, WIDTH)]
    return tuple((np.float32(random.normal(size=s)), np.ones(s[0], np.float32)) for s in shapes)


SIZES = CacheSizes(
    query_dim=WIDTH, text_dim=12, mask_dim=8, num_video_queries=OBJECTS, num_classes=2,
    mask_head=mask_head(),
)  # fmt: skip


def make(kind: str, **keys: Any) -> Head:
    torch.manual_seed(0)
    return find_head(kind)(SIZES, **KEYS, **keys).eval()


def make_inputs(batch: int = 2, frames: int = FRAMES) -> HeadInputs:
    """Any video, with two twins: queries 0 and 1 are equal, and one does what the other undoes.

    Frame queries are the same from both ends, so only tracks tell the ends of time apart.
    """
    random = torch.Generator().manual_seed(1)

    def randn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=random)

    video_queries, tracks = randn(batch, OBJECTS, WIDTH), randn(batch, OBJECTS, frames, 6).abs()
    video_queries[:, 1] = video_queries[:, 0]
    tracks[:, 1] = tracks[:, 0].flip(1)
    tracks[:, 2:] = tracks[:, 2:] + tracks[:, 2:].flip(2)
    video_logits = randn(batch, OBJECTS, 3)
    video_logits[:, 1] = video_logits[:, 0]
    frame_queries = randn(batch, frames, 4, WIDTH)
    return HeadInputs(
        frame_queries=frame_queries + frame_queries.flip(1),
        frame_mask=torch.ones(batch, frames, dtype=torch.bool),
        video_queries=video_queries,
        video_logits=video_logits,
        words=randn(batch, 3, 12),
        word_mask=torch.ones(batch, 3, dtype=torch.bool),
        static=torch.tensor([True, False, True]).expand(batch, -1),
        motion=torch.tensor([False, True, False]).expand(batch, -1),
        sentence=randn(batch, 12),
        tracks=tracks,
        times=torch.arange(frames, dtype=torch.float32).expand(batch, -1) * 2,
    )


def backwards(inputs: HeadInputs) -> HeadInputs:
    return replace(
        inputs,
        frame_queries=inputs.frame_queries.flip(1),
        tracks=inputs.tracks.flip(2),
        times=(inputs.times.amax(1, keepdim=True) - inputs.times).flip(1),
    )


@torch.no_grad()
def scores(head: Head, inputs: HeadInputs) -> torch.Tensor:
    """By video query, (B, N_v)."""
    output = head(inputs)[-1]
    return torch.zeros(output.logits.shape).scatter(1, output.sources, output.logits)


@pytest.mark.parametrize("kind", ORDERED)
def test_a_video_played_backwards_exchanges_twins(kind: str) -> None:
    head, inputs = make(kind, frame_reading=True), make_inputs()
    forward, backward = scores(head, inputs), scores(head, backwards(inputs))
    assert ((forward[:, 0] - forward[:, 1]).abs() > 1e-3).all()
    torch.testing.assert_close(backward, forward[:, [1, 0, 2, 3, 4]], atol=1e-4, rtol=1e-4)


def test_the_paper_s_head_cannot_tell_a_video_from_the_same_backwards() -> None:
    head, inputs = make("dmvs"), make_inputs()
    forward, backward = scores(head, inputs), scores(head, backwards(inputs))
    torch.testing.assert_close(backward, forward, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(forward[:, 0], forward[:, 1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ORDERED)
def test_padded_frames_do_not_leak(kind: str) -> None:
    head, inputs = make(kind, frame_reading=True), make_inputs()
    more = 3
    padded = replace(
        inputs,
        frame_queries=torch.cat([inputs.frame_queries, torch.full((2, more, 4, WIDTH), 9.0)], 1),
        frame_mask=torch.cat([inputs.frame_mask, torch.zeros(2, more, dtype=torch.bool)], 1),
        tracks=torch.cat([inputs.tracks, torch.full((2, OBJECTS, more, 6), 9.0)], 2),
        times=torch.cat([inputs.times, torch.full((2, more), 99.0)], 1),
    )
    torch.testing.assert_close(scores(head, padded), scores(head, inputs), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ORDERED)
def test_a_video_is_followed_once_for_all_its_expressions(kind: str) -> None:
    head, inputs = make(kind, frame_reading=True), make_inputs(batch=1)
    many = HeadInputs.of({n: own.expand(3, *own.shape[1:]) for n, own in inputs.present().items()})
    copied = HeadInputs.of({n: own.contiguous() for n, own in many.present().items()})
    torch.testing.assert_close(scores(head, many), scores(head, copied), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ORDERED)
@pytest.mark.parametrize(
    "off", [{"tracks": False}, {"frame_reading": False}, {"frame_order": "random"}]
)
def test_parts_can_be_left_out(kind: str, off: dict[str, Any]) -> None:
    whole = make(kind, frame_reading=True)
    less = make(kind, **{"frame_reading": True, **off})
    counts = [sum(p.numel() for p in head.parameters()) for head in (whole, less)]
    assert counts[1] < counts[0] or "frame_order" in off
    assert not torch.allclose(scores(whole, make_inputs()), scores(less, make_inputs()))


@pytest.mark.parametrize("kind", ORDERED)
def test_nothing_is_left_without_tracks_and_frames(kind: str) -> None:
    layer = {"model": {"type": kind, "tracks": False}}
    with pytest.raises(InputError, match="nothing is left of an object's trajectory"):
        complete([("here", layer)], path="here")


def test_without_tracks_twins_are_alike() -> None:
    told = scores(make("trajectory", tracks=False, frame_reading=True), make_inputs())
    torch.testing.assert_close(told[:, 0], told[:, 1], atol=1e-5, rtol=1e-5)


def test_frames_in_random_order_are_drawn_anew_in_training_only() -> None:
    head, inputs = make("trajectory", frame_order="random"), make_inputs()
    assert torch.equal(scores(head, inputs), scores(head, inputs))
    head.train()
    torch.manual_seed(0)
    first = scores(head, inputs)
    assert not torch.allclose(first, scores(head, inputs))
    torch.manual_seed(0)
    assert torch.equal(first, scores(head, inputs))


def test_rates_of_change_do_not_depend_on_how_frames_are_skipped() -> None:
    times = torch.tensor([[0.0, 1.0, 4.0, 6.0]])
    tracks = torch.ones(1, 1, 4, 6) * 0.5
    tracks[0, 0, :, 0] = times[0] * 0.02  # it travels evenly
    numbers = track_numbers(tracks, times, torch.ones(1, 4, dtype=torch.bool))[0, 0]
    torch.testing.assert_close(numbers[:, 6], torch.tensor([0.0, 0.2, 0.2, 0.2]))
    torch.testing.assert_close(numbers[:, -1], times[0] / 6)
    tracks[0, 0, 2] = 0  # not seen there
    numbers = track_numbers(tracks, times, torch.ones(1, 4, dtype=torch.bool))[0, 0]
    torch.testing.assert_close(numbers[:, 6], torch.tensor([0.0, 0.2, 0.0, 0.0]))
    assert (numbers[2, 12:18] == 0).all()


def test_a_trajectory_costs_at_most_three_million_parameters() -> None:
    sizes = CacheSizes(256, 768, 256, num_video_queries=100, num_classes=25)
    full = {"frame_reading": True}
    with torch.device("meta"):
        counts = {
            kind: sum(p.numel() for p in find_head(kind)(sizes, **keys).parameters())
            for kind, keys in (("dmvs", {}), ("trajectory", full), ("select", full))
        }
    assert 0 < counts["trajectory"] - counts["dmvs"] <= 3_000_000
    assert counts["select"] < counts["dmvs"] / 2


def test_select_says_which_objects_and_draws_nothing() -> None:
    head = find_head("select")(SIZES, **{**KEYS, "num_motion_queries": 3})
    inputs = make_inputs()
    outputs = head(inputs)
    assert len(outputs) == 2
    best = inputs.video_logits.softmax(-1)[..., :-1].amax(-1).topk(3).indices
    assert outputs[-1].mask_embeds is None
    assert torch.equal(outputs[-1].sources, best)
    assert outputs[-1].logits.shape == (2, 3)


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_from_its_start_each_query_draws_its_own_object(activation: str) -> None:
    between = getattr(nn.functional, activation)
    sizes = replace(SIZES, activation=activation)
    inputs = make_inputs()
    # As the segmenter's are: after a norm.
    queries = nn.functional.layer_norm(inputs.video_queries, (WIDTH,))
    inputs = replace(inputs, video_queries=queries)
    start = KEYS | {"mask_start": "segmenter"}
    head = find_head("dmvs")(sizes, **start, decoder_start="identity").eval()
    expected = queries
    for number, (weight, bias) in enumerate(SIZES.mask_head):
        expected = expected @ torch.from_numpy(weight).T + torch.from_numpy(bias)
        expected = between(expected) if number < 2 else expected
    for output in head(inputs):
        own = torch.take_along_dim(expected, output.sources[:, :, None], dim=1)
        torch.testing.assert_close(output.mask_embeds, own, atol=1e-3, rtol=1e-3)
    random = make("dmvs", mask_start="segmenter")(inputs)[-1].mask_embeds
    assert not torch.allclose(random, own, atol=0.1)


def test_masks_of_frames_are_asked_for_where_there_are_none() -> None:
    with pytest.raises(InputError, match="the same in all frames; set model.mask_start"):
        find_head("dmvs")(SIZES, **KEYS, mask_start="frames")
    options = {"model.mask_start": "frames", "model.initialisation": "text"}
    with pytest.raises(InputError, match="goes with model.initialisation='video' only"):
        load_config("demo", options)


def test_a_cache_without_the_segmenter_s_mask_head_is_refused() -> None:
    for sizes, words in [
        (replace(SIZES, mask_head=()), "does not hold the segmenter's mask head"),
        (replace(SIZES, query_dim=4, mask_head=((np.ones((4, 4)), np.ones(4)),)), "layers of"),
    ]:
        with pytest.raises(InputError, match=words):
            find_head("dmvs")(sizes, **KEYS, mask_start="segmenter")
