"""Mask logits in the coded space: those of the expanded features, forward and backward."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from cache_schema.codecs import CODECS, LOWRANK, Codec, get_codec
from tests.synthetic import make_codec
from train.masks import stack as stack_module
from train.masks import tables
from train.masks.bilinear import sample
from train.masks.logits import MaskFeatures, mask_logits
from train.masks.stack import MaskStack
from train.masks.tables import MaskTables

CHANNELS = 16
PARAMETERS = [
    *(make_codec(name, CHANNELS) for name in CODECS),
    make_codec(LOWRANK, CHANNELS, rank=1),
    make_codec(LOWRANK, CHANNELS, rank=CHANNELS),
]
every_codec = pytest.mark.parametrize(
    "codec", PARAMETERS, ids=lambda c: f"{c.name}-{c.basis.rank}" if c.basis else c.name
)


def make(
    codec: Codec, frames: int, h: int, w: int, queries: int, seed: int = 0
) -> tuple[dict[str, np.ndarray], Tensor]:
    """Coded noise, scaled differently in every channel, and embeddings (N, C)."""
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((frames, CHANNELS, h, w), np.float32)
    features *= np.geomspace(0.01, 100, CHANNELS, dtype=np.float32)[:, None, None]
    return codec.encode(features), torch.from_numpy(
        rng.standard_normal((queries, CHANNELS), np.float32)
    )


def stack(stored: dict[str, np.ndarray], codec: Codec) -> MaskStack:
    return MaskStack([MaskFeatures(stored, codec)])


def expand(codec: Codec, stored: dict[str, np.ndarray]) -> Tensor:
    """The C channels (T, C, h, w) float64 that coded frames stand for."""
    values = stored["values"].astype(np.float64)
    if codec.scaled:
        values *= stored["scales"][:, :, None, None]
    if codec.basis:
        mean = codec.basis.mean.astype(np.float64)[:, None, None]
        values = mean + np.einsum("trhw,rc->tchw", values, codec.basis.decoder.astype(np.float64))
    return torch.from_numpy(values)


def assert_rounded(found: Tensor, expected: Tensor, size: Tensor | None = None) -> None:
    """Equal up to float32 rounding, relative to the largest value, or to what was added up."""
    assert found.dtype == torch.float32 and found.shape == expected.shape
    if found.numel():
        error = (found.double() - expected).abs().max()
        assert error <= 2e-6 * (expected if size is None else size).abs().max()


@every_codec
@settings(max_examples=15)
@given(
    frames=st.integers(1, 4),
    queries=st.integers(0, 5),
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    seed=st.integers(0, 99),
)
def test_forward_and_backward_are_those_of_expanded_features(
    codec: Codec, frames: int, queries: int, size: tuple[int, int], seed: int
) -> None:
    stored, embeds = make(codec, frames, *size, queries, seed)
    features = expand(codec, stored)
    exact = embeds.double().requires_grad_()
    expected = torch.einsum("nc,tchw->nthw", exact, features)
    assert_rounded(mask_logits(stored, embeds, codec=codec).transpose(0, 1), expected)
    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(seed))
    (expected * weights).sum().backward()
    for kind in (MaskStack, MaskTables):
        own = embeds.clone().requires_grad_()
        found = kind([MaskFeatures(stored, codec)]).logits(own, [queries])
        added = torch.einsum("nc,tchw->nthw", exact.abs(), features.abs())
        assert_rounded(found, expected, added)
        (found * weights).sum().backward()
        added = torch.einsum("nthw,tchw->nc", weights.double().abs(), features.abs())
        assert_rounded(own.grad, exact.grad, added)


@every_codec
def test_frames_agree_with_the_cache_schema(codec: Codec) -> None:
    stored, embeds = make(codec, 3, 7, 9, 4)
    expected = torch.from_numpy(codec.mask_logits(stored, embeds.numpy()))
    assert_rounded(mask_logits(stored, embeds, codec=codec), expected)


def test_a_frame_is_one_product_bit_for_bit() -> None:
    features, embeds = torch.randn(3, 64, 24, 40), torch.randn(12, 64)
    ours = mask_logits({"values": features.half().float()}, embeds, codec=get_codec("float32"))
    for t in range(3):
        direct = embeds @ features[t].half().float().flatten(1)
        assert torch.equal(ours[t].flatten(1), direct)
    halves = mask_logits({"values": features.half()}, embeds, codec=get_codec("float16"))
    assert torch.equal(ours, halves)


@every_codec
@pytest.mark.parametrize("points", [7, 300])
@pytest.mark.parametrize("kind", [MaskStack, MaskTables])
def test_logits_at_points_are_those_of_the_maps(
    codec: Codec, points: int, kind: type[MaskStack], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Few points interpolate the coded features, many the maps: the same numbers either way."""
    clips = [make(codec, 3, 6, 10, 4, seed)[0] for seed in range(2)]
    random = torch.Generator().manual_seed(0)
    embeds = torch.randn(2, 4, CHANNELS, generator=random)  # (G, N, C)
    # Some points lie on the edge, where the half of a bilinear value that is outside is zero.
    where = torch.rand(2, points, 2, generator=random)
    where[1, :4] = torch.tensor([[0.0, 0.5], [1.0, 0.2], [0.01, 0.0], [1.0, 1.0]])
    monkeypatch.setattr(stack_module, "AT_ONCE", 1000)  # two frames, then one
    monkeypatch.setattr(tables, "LOGITS", 2000)
    for own in ([0, 1], [1]):  # side by side, and one alone
        features = kind([MaskFeatures(clips[g], codec) for g in own])
        found = torch.zeros(len(own), 3, points, 4)
        for frames, block, values in features.read(embeds[own], where[own]):
            found[:, frames, block] = values
        for logits, g in zip(found, own, strict=True):
            maps = torch.einsum("nc,tchw->nthw", embeds[g].double(), expand(codec, clips[g]))
            expected = sample(maps.flatten(0, 1)[None], where[g : g + 1].double()).view(
                4, 3, points
            )
            assert_rounded(logits, expected.permute(1, 2, 0))


@every_codec
@pytest.mark.parametrize("kind", [MaskStack, MaskTables])
@pytest.mark.parametrize("large", [False, True])
def test_own_masks_are_channels_like_the_others(
    codec: Codec, kind: type[MaskStack], large: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Embeddings say how much of each video query's mask, which changes by the frame, they take."""
    monkeypatch.setattr(stack_module, "SMALL", 0 if large else 2**20)
    random = torch.Generator().manual_seed(0)
    clips = [make(codec, 3, 6, 10, 0, seed)[0] for seed in range(2)]
    own = torch.randn(2, 3, 5, CHANNELS, generator=random)  # (G, T, N_v, C)
    embeds = torch.randn(2, 4, CHANNELS + 5, generator=random)
    clip_maps = torch.stack([expand(codec, stored) for stored in clips])
    exact = embeds.double().requires_grad_()
    changing = exact[:, None, :, :CHANNELS] + exact[:, None, :, CHANNELS:] @ own.double()
    expected = torch.einsum("gtnc,gtchw->gnthw", changing, clip_maps)
    expected.square().sum().backward()
    features = kind(
        [MaskFeatures(clip, codec).beside(its) for clip, its in zip(clips, own, strict=True)]
    )
    given = embeds.clone().requires_grad_()
    found = features.logits(given.flatten(0, 1), [4, 4]).unflatten(0, (2, 4))
    found.square().sum().backward()
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()
    assert (given.grad - exact.grad).abs().max() < 1e-5 * exact.grad.abs().max()
    where = torch.rand(2, 7, 2, generator=random)
    read = torch.zeros(2, 3, 7, 4)
    for frames, block, values in features.read(embeds, where):
        read[:, frames, block] = values
    for logits, maps, points in zip(read, expected, where, strict=True):
        direct = sample(maps.flatten(0, 1)[None], points[None].double()).view(4, 3, 7)
        assert (logits - direct.permute(1, 2, 0)).abs().max() < 1e-5 * expected.abs().max()
    without = features.logits(embeds[..., :CHANNELS].flatten(0, 1), [4, 4])
    plain = kind([MaskFeatures(clip, codec) for clip in clips])
    assert_rounded(without, plain.logits(embeds[..., :CHANNELS].flatten(0, 1), [4, 4]).double())


def test_no_product_has_more_channels_than_the_codec() -> None:
    codec = make_codec(LOWRANK, CHANNELS, rank=2)
    stored, embeds = make(codec, 3, 20, 30, 5)
    features = stack(stored, codec)
    with FlopCounterMode(display=False) as counter:
        features.logits(embeds.requires_grad_(), [5]).sum().backward()
    # The mean is one channel more.
    maps, projection = 5 * (2 + 1) * 3 * 20 * 30, 5 * 16 * 2 + 5 * 16
    # Two operations a multiply-add; each product backward once, to the embeddings only.
    assert counter.get_total_flops() <= 2 * 2 * (maps + projection)


@every_codec
def test_features_travel_coded(codec: Codec) -> None:
    stored, embeds = make(codec, 2, 3, 4, 5)
    there = MaskFeatures(stored, codec).to("meta")
    assert {n: (a.shape, a.element_size()) for n, a in there.stored.items()} == {
        n: (a.shape, a.itemsize) for n, a in stored.items()
    }
    assert there.shape == (2, 3, 4)


def test_replay_in_inference_mode_leaves_training_possible() -> None:
    codec = make_codec(LOWRANK, CHANNELS)
    stored, embeds = make(codec, 1, 3, 4, 2)
    with torch.inference_mode():
        mask_logits(stored, embeds, codec=codec)
    stack(stored, codec).logits(embeds.requires_grad_(), [2]).sum().backward()
    assert embeds.grad.abs().sum() > 0
