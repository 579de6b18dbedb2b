"""What must hold of VITA's numbers for any window, any chunks and any number of frames."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from stage_one import DEMO
from torch import Tensor
from vita_cases import SHIPPED, load

from extract.config import load_config
from extract.segmenters.base import configure
from extract.segmenters.vita import VITA, VITAConfig, VITAHead

EXACT = 1e-5
WINDOWS = st.sampled_from([0, 1, 2, 3, 4, 5, 6, 7, 11])
SEEDS = st.integers(0, 2**16)


@pytest.fixture(scope="module", params=["resnet", "swin"])
def vita(request: pytest.FixtureRequest) -> VITA:
    if request.param == "resnet":
        return load(SHIPPED, "tiny_r50")
    config = configure(VITAConfig, load_config(DEMO).segmenter)
    return VITA.load(config, DEMO.parents[1] / "assets/vita_tiny.safetensors")


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def small_head(window: int, seed: int) -> VITAHead:
    """A head whose every parameter is random, norms and biases too."""
    torch.manual_seed(seed)
    head = VITAHead(
        VITAConfig(
            backbone={"type": "resnet", "depth": 50},
            num_frame_queries=3,
            num_video_queries=5,
            window_size=window,
            num_classes=4,
            hidden_dim=32,
            mask_dim=16,
            num_heads=2,
            video_feedforward_dim=48,
            encoder_layers=4,
        )
    ).eval()
    with torch.no_grad():
        for parameter in head.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return head.requires_grad_(False)


def encode_as_published(head: VITAHead, queries: Tensor, padding: Tensor) -> Tensor:
    """The Object Encoder as the original computes it, with padding, rolls and masks.

    Args:
        queries: (T, N_f, C).
        padding: (W, N_f, C), what the padded frames start as; zeros in the original.
    """
    window = head.window_size
    frames, tokens, channels = queries.shape
    if window == 0:
        flat = queries.reshape(1, -1, channels)  # (1, T*N_f, C)
        for attention, ffn in zip(head.enc_self_attn, head.enc_ffn, strict=True):
            flat = ffn(attention.norm(flat + attention.self_attn(flat, flat, flat)[0]))
        return flat.view(frames, tokens, channels)
    padded = math.ceil(frames / window) * window
    queries = torch.cat([queries, padding[: padded - frames]])  # (T', N_f, C)
    real = torch.arange(padded) < frames
    half = math.ceil(window / 2)
    for index, (attention, ffn) in enumerate(zip(head.enc_self_attn, head.enc_ffn, strict=True)):
        shifted = index % 2 == 1
        rolled = queries.roll(half, 0) if shifted else queries
        # which frames see which, (T', T'): only those of their window, and no padded ones ...
        group = torch.arange(padded) // window
        valid = real.roll(half) if shifted else real
        apart = (group[:, None] != group) | ~valid
        if shifted:  # ... and in the first window, the video's two ends do not see each other
            late = (torch.arange(padded) < half) & (group == 0)
            apart |= (group[:, None] == group) & (late[:, None] != late)
        # -1000 and not -inf: rows of padded frames see nothing, and have to stay finite
        mask = torch.where(apart, -1000.0, 0.0).repeat_interleave(tokens, 0)
        mask = mask.repeat_interleave(tokens, 1)
        flat = rolled.reshape(1, -1, channels)  # (1, T'*N_f, C)
        flat = attention.norm(flat + attention.self_attn(flat, flat, flat, attn_mask=mask)[0])
        rolled = ffn(flat).view(padded, tokens, channels)
        queries = rolled.roll(-half, 0) if shifted else rolled
    return queries[:frames]


@given(window=WINDOWS, frames=st.integers(1, 40), seed=SEEDS, scale=st.sampled_from([0, 1, 10]))
@settings(max_examples=40)
def test_the_encoder_is_the_published_one_whatever_pads_it(
    window: int, frames: int, seed: int, scale: int
) -> None:
    head = small_head(window, seed)
    queries, padding = random(frames, 3, 32, seed=seed), random(window, 3, 32, seed=seed + 1)
    expected = encode_as_published(head, queries, scale * padding)
    torch.testing.assert_close(head.encode(queries[None])[0], expected, atol=EXACT, rtol=0)


@given(window=WINDOWS, frames=st.integers(1, 40), clips=st.integers(2, 4), seed=SEEDS)
@settings(max_examples=20)
def test_a_batch_of_clips_is_clip_by_clip(window: int, frames: int, clips: int, seed: int) -> None:
    head, queries = small_head(window, seed), random(clips, frames, 3, 32, seed=seed)
    batch = head(queries)
    for index in range(clips):
        alone = head(queries[index : index + 1])
        for name in ("video_queries", "logits", "mask_embeds"):
            expected = getattr(batch, name)[index]
            torch.testing.assert_close(getattr(alone, name)[0], expected, atol=EXACT, rtol=0)


@given(window=st.integers(1, 7), frames=st.integers(2, 40), seed=SEEDS)
@settings(max_examples=20)
def test_frames_see_only_what_their_windows_reach(window: int, frames: int, seed: int) -> None:
    """Through 4 layers, 2 of them shifted: no further than 4 windows away, and no less than 1."""
    head, queries = small_head(window, seed), random(1, frames, 3, 32, seed=seed)
    moved = queries.clone()
    moved[:, 0] += 1
    changed = (head.encode(moved) - head.encode(queries)).abs().amax((0, 2, 3)) > 1e-4  # (T,)
    assert changed[: min(window, frames)].all() and not changed[4 * window :].any()


@given(sizes=st.lists(st.integers(1, 3), min_size=2, max_size=3), seed=SEEDS)
@settings(max_examples=8)
def test_chunks_never_change_what_is_said(vita: VITA, sizes: list[int], seed: int) -> None:
    """T from 2 to 9 frames, windows of 4: frame by frame, in given chunks, and all at once."""
    images = random(sum(sizes), 3, 64, 64, seed=seed)
    whole = vita.frames(images)[0]
    video = vita.video(whole.frame_queries[None])
    for chunks in (images.split(sizes), images.split(1)):
        parts = [vita.frames(chunk)[0] for chunk in chunks]
        queries = torch.cat([part.frame_queries for part in parts])
        features = torch.cat([part.mask_features for part in parts])
        torch.testing.assert_close(queries, whole.frame_queries, atol=EXACT, rtol=0)
        torch.testing.assert_close(features, whole.mask_features, atol=EXACT, rtol=0)
        found = vita.video(queries[None])
        for name in ("video_queries", "logits", "mask_embeds"):
            expected = getattr(video, name)  # logits reach 8, in steps of 5e-7
            torch.testing.assert_close(getattr(found, name), expected, atol=EXACT, rtol=1e-6)


@pytest.mark.parametrize("frames", [2, 4 * 25 + 1])
def test_few_and_very_many_frames(vita: VITA, frames: int) -> None:
    """Far over the window of 4 frames; the last window has one frame of its own."""
    config = vita.config
    queries = random(1, frames, config.num_frame_queries, config.hidden_dim, seed=frames)
    expected = encode_as_published(
        vita.head, queries[0], torch.zeros(4, config.num_frame_queries, config.hidden_dim)
    )
    with torch.no_grad():
        encoded = vita.head.encode(queries)[0]
    torch.testing.assert_close(encoded, expected, atol=EXACT, rtol=0)
    output = vita.video(queries)
    assert all(t.isfinite().all() for t in (output.video_queries, output.logits))
