"""The frame level against the library's own forward pass, which it replaces; and its numbers."""

import copy

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from stage_one import DEMO, prepare
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.models.mask2former.modeling_mask2former import (
    Mask2FormerPixelDecoderEncoderMultiscaleDeformableAttention as LibraryAttention,
)

from extract.config import load_config
from extract.demo.world import make_scene
from extract.segmenters.base import FrameOutput, configure
from extract.segmenters.masks import mask_logits, to_original
from extract.segmenters.preprocessing import Preprocessor
from extract.segmenters.vita import VITA, VITAConfig, deformable_kernel, forms
from extract.segmenters.vita import pixel_decoder as pixel_decoder_module
from extract.segmenters.vita.backbone import swin_maps
from extract.segmenters.vita.deformable import sample, sampling_grid, value_table
from extract.segmenters.vita.tokens import first_rows, map_of, resize, tokens_of

BACKBONES = {
    "resnet": {"type": "resnet", "depth": 50, "stem_channels": 8, "res2_channels": 32},
    "swin": {
        "type": "swin",
        "embed_dim": 16,
        "depths": (1, 1, 2, 1),
        "num_heads": (1, 2, 2, 4),
        "window_size": 4,
    },
}
TOLERANCE = 1e-5


def config_of(backbone: str) -> VITAConfig:
    return VITAConfig(
        backbone=BACKBONES[backbone],
        num_frame_queries=3,
        num_video_queries=5,
        window_size=3,
        num_classes=4,
        hidden_dim=64,
        mask_dim=24,
        num_heads=4,
        feedforward_dim=48,
        pixel_decoder_layers=2,
        decoder_layers=4,  # 3 layers: one for each map
    )


def randomised(vita: VITA, seed: int) -> VITA:
    """All weights anew: norms are no identity, activations neither grow nor vanish.

    The library's own start depends on its version, and leaves all masks close to zero.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(tensor: Tensor, scale: float) -> None:
        tensor.copy_(scale * torch.randn(tensor.shape, generator=generator))

    for parameter in vita.parameters():
        draw(parameter, 0.2 if parameter.ndim == 1 else parameter[0].numel() ** -0.5)
    for module in vita.modules():
        if isinstance(module, (nn.LayerNorm, nn.GroupNorm, nn.BatchNorm2d)):
            module.weight.add_(1)
        if isinstance(module, nn.BatchNorm2d):
            draw(module.running_mean, 0.2)
            draw(module.running_var, 1)
            module.running_var.square_().add_(2)
        if isinstance(module, LibraryAttention):
            module.sampling_offsets.weight.mul_(3)  # points leave their maps
    return vita


@pytest.fixture(scope="module", params=BACKBONES)
def vita(request: pytest.FixtureRequest) -> VITA:
    return randomised(VITA(config_of(request.param)), seed=1)


def images(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def by_the_library(vita: VITA, frames: Tensor) -> tuple[FrameOutput, Tensor]:
    """The same from the library's forward pass in float64; and in which frames masks are clear.

    A mask is not clear, (t,) bool, where some logit is zero up to rounding: whether its cell is
    hidden is then up to rounding as well, and all queries of the frame with it.
    """
    vita, frames = copy.deepcopy(vita).double(), frames.double()
    model, finest = vita.frame_model.model, []
    hook = model.pixel_level_module.decoder.mask_projection.register_forward_pre_hook(
        lambda _, inputs: finest.append(inputs[0])
    )
    pixels = model.pixel_level_module(frames)
    hook.remove()
    decoded = model.transformer_module(
        multi_scale_features=pixels.decoder_hidden_states,
        mask_features=pixels.decoder_last_hidden_state,
    )
    # one prediction for each layer, at stride 4, and one after the last
    margins = [
        F.interpolate(logits, maps.shape[-2:], mode="bilinear").abs().flatten(1).amin(1)
        for logits, maps in zip(
            decoded.masks_queries_logits, pixels.decoder_hidden_states, strict=False
        )
    ]
    queries = decoded.intermediate_hidden_states[-1].transpose(0, 1)  # (t, N_f, C)
    features = vita.head.vita_mask_features(finest[0])
    return FrameOutput(queries.float(), features.float()), torch.stack(margins).amin(0) > TOLERANCE


def assert_close(found: FrameOutput, expected: FrameOutput, clear: Tensor) -> None:
    assert clear.any()
    for ours, theirs in (
        (found.mask_features, expected.mask_features),
        (found.frame_queries[clear], expected.frame_queries[clear]),
    ):
        torch.testing.assert_close(ours, theirs, atol=TOLERANCE, rtol=0)


# 32 leaves the coarsest map a single cell along an axis; the odd ones are no multiple of 32.
@pytest.mark.parametrize(
    "size", [(32, 32), (32, 96), (64, 96), (96, 64), (128, 160), (75, 101), (33, 130)]
)
def test_equals_the_library(vita: VITA, size: tuple[int, int]) -> None:
    frames = images(3, 3, *size)
    found = vita.frames(frames)[0]
    assert found.mask_features.is_contiguous() and found.frame_queries.is_contiguous()
    assert_close(found, *by_the_library(vita, frames))


@pytest.mark.parametrize("size", [(64, 96), (128, 160), (75, 101), (33, 130)])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_swin_by_gathers_equals_the_library(
    size: tuple[int, int], dtype: torch.dtype | None
) -> None:
    vita = randomised(VITA(config_of("swin")), seed=1)
    backbone = vita.frame_model.model.pixel_level_module.encoder
    frames = images(2, 3, *size)
    with torch.no_grad(), torch.autocast("cpu", dtype, dtype is not None):
        expected = backbone(frames).feature_maps
        found = swin_maps(backbone, frames)
    assert len(found) == 4
    for mine, theirs in zip(found, expected, strict=True):
        assert mine.shape == theirs.shape
        allowed = TOLERANCE if dtype is None else 0.05 * theirs.std()
        assert (mine - theirs).abs().max() < allowed


@pytest.mark.parametrize("size", [(64, 96), (75, 101)])
def test_the_forms_for_a_gpu_equal_the_library(
    vita: VITA, monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]
) -> None:
    monkeypatch.setattr(forms, "gpu", lambda tensor: True)
    monkeypatch.setattr(forms, "KERNEL", False)
    frames = images(3, 3, *size)
    assert_close(vita.frames(frames)[0], *by_the_library(vita, frames))


def test_a_kernel_that_fails_is_one_warning_and_another_form(
    vita: VITA, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> None:
        raise RuntimeError("NVRTC error 6: no such function")

    monkeypatch.setattr(forms, "gpu", lambda tensor: True)
    monkeypatch.setattr(forms, "KERNEL", True)
    monkeypatch.setattr(deformable_kernel, "_kernel", fail)
    frames = images(2, 3, 64, 96)
    with pytest.warns(UserWarning, match="slow deformable .* no such function") as warned:
        found = [vita.frames(frames)[0] for _ in range(2)]
    assert len(warned) == 1 and not forms.KERNEL
    for output in found:
        assert_close(output, *by_the_library(vita, frames))


def test_the_comparison_would_notice_a_mask(vita: VITA) -> None:
    """Queries depend on what they may see: without masks they are others."""
    frames = images(1, 3, 64, 96)
    everywhere = copy.deepcopy(vita)
    projection = everywhere.frame_model.model.pixel_level_module.decoder.mask_projection
    projection.weight.zero_(), projection.bias.zero_()
    difference = vita.frames(frames)[0].frame_queries - everywhere.frames(frames)[0].frame_queries
    assert difference.abs().max() > 1000 * TOLERANCE


@pytest.mark.parametrize("gpu", [False, True])
def test_group_norm_keeps_its_digits_far_from_zero(
    vita: VITA, monkeypatch: pytest.MonkeyPatch, gpu: bool
) -> None:
    monkeypatch.setattr(forms, "gpu", lambda tensor: gpu)
    monkeypatch.setattr(forms, "KERNEL", False)
    shifted = copy.deepcopy(vita)
    decoder = shifted.frame_model.model.pixel_level_module.decoder
    for convolution, _ in decoder.input_projections:
        convolution.bias.add_(100)  # which the norm takes away again
    frames = images(1, 3, 128, 128)
    difference = shifted.frames(frames)[0].mask_features - vita.frames(frames)[0].mask_features
    assert 0 < difference.abs().max() < 2e-4


def test_blocks_do_not_change_the_result(vita: VITA, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = images(3, 3, 64, 96)  # 126 tokens each
    expected, clear = by_the_library(vita, frames)
    for tokens in (50, 126, 300):
        monkeypatch.setattr(pixel_decoder_module, "CACHED_TOKENS", tokens)
        assert_close(vita.frames(frames)[0], expected, clear)


def test_weights_may_change_after_the_first_frame(vita: VITA) -> None:
    frames = images(2, 3, 64, 64)
    other = randomised(VITA(vita.config), seed=2)
    expected, clear = by_the_library(other, frames)
    used = copy.deepcopy(vita)
    before = used.frames(frames)[0]
    used.frame_model.load_state_dict(other.frame_model.state_dict())
    used.head.load_state_dict(other.head.state_dict())
    after = used.frames(frames)[0]
    assert (after.frame_queries - before.frame_queries).abs().max() > 0.1
    assert_close(after, expected, clear)


def test_use_leaves_the_state_dictionary_alone(vita: VITA) -> None:
    fresh = VITA(vita.config).state_dict()
    vita.frames(images(1, 3, 64, 64))[0]
    used = vita.state_dict()
    assert {name: tensor.shape for name, tensor in used.items()} == {
        name: tensor.shape for name, tensor in fresh.items()
    }


@pytest.mark.parametrize("gpu", [False, True])
def test_what_is_no_number_passes_through(
    vita: VITA, monkeypatch: pytest.MonkeyPatch, gpu: bool
) -> None:
    """Whoever reads the output can see it; nothing stops on the way."""
    monkeypatch.setattr(forms, "gpu", lambda tensor: gpu)
    monkeypatch.setattr(forms, "KERNEL", False)
    frames = images(2, 3, 64, 96)
    frames[1, :, 20:40, 30:50] = torch.nan
    output = vita.frames(frames)[0]
    assert output.frame_queries[1].isnan().any() and output.mask_features[1].isnan().any()
    assert output.frame_queries[0].isfinite().all() and output.mask_features[0].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_changes_little_and_puts_out_float32(dtype: torch.dtype) -> None:
    """On a trained model: with random weights, masks hang on the last bits of their logits."""
    config = configure(VITAConfig, load_config(DEMO).segmenter)
    vita = VITA.load(config, DEMO.parents[1] / "assets" / "vita_tiny.safetensors")
    preprocess = Preprocessor(None, None, config.pixel_mean, config.pixel_std)
    drawn, _ = make_scene((0, 2, 0)).draw()
    prepared = [prepare(preprocess, frame) for frame in drawn[:4]]
    frames = torch.stack([image for image, _ in prepared])
    seen, masks = [], []
    for vita.autocast in (None, dtype):
        output = vita.frames(frames)[0]
        video = vita.video(output.frame_queries[None])
        seen.append([output.frame_queries, output.mask_features, *vars(video).values()])
        logits = mask_logits(output.mask_features, video.mask_embeds[0])
        masks.append(to_original(logits, prepared[0][1]) > 0)
    for exact, narrow in zip(*seen, strict=True):
        assert narrow.dtype == torch.float32
        assert 0 < (narrow - exact).abs().mean() < 0.02 * exact.std()
    assert (masks[0] != masks[1]).float().mean() < 1e-3


def test_autocast_around_it_changes_nothing(vita: VITA) -> None:
    frames = images(1, 3, 64, 64)
    expected = vita.frames(frames)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = vita.frames(frames)[0]
    assert torch.equal(found.mask_features, expected.mask_features)
    assert torch.equal(found.frame_queries, expected.frame_queries)


SHAPES = st.lists(st.tuples(st.integers(1, 7), st.integers(1, 7)), min_size=3, max_size=3)


@settings(max_examples=40)
@given(shapes=SHAPES, seed=st.integers(0, 1000), spread=st.sampled_from([0.0, 0.5, 4.0, 1e6]))
def test_sampling_equals_the_library(
    shapes: list[tuple[int, int]], seed: int, spread: float
) -> None:
    torch.manual_seed(seed)
    attention = LibraryAttention(embed_dim=16, num_heads=2, n_levels=3, n_points=4)
    with torch.no_grad():
        attention.sampling_offsets.weight.normal_(0, spread)
        attention.sampling_offsets.bias.normal_(0, spread)
    length = sum(height * width for height, width in shapes)
    tokens, positions = torch.randn(2, length, 16), torch.randn(length, 16)
    centres = [
        torch.stack(
            torch.meshgrid(
                (torch.arange(width) + 0.5) / width,
                (torch.arange(height) + 0.5) / height,
                indexing="xy",
            ),
            -1,
        ).flatten(0, 1)
        for height, width in shapes
    ]
    with torch.no_grad():
        expected, _ = attention(
            tokens,
            encoder_hidden_states=tokens,
            position_embeddings=positions,
            reference_points=torch.cat(centres)[None, :, None].expand(2, -1, 3, -1),
            spatial_shapes_list=shapes,
        )
        found = sample(
            attention,
            tokens + positions,
            value_table(attention, tokens),
            sampling_grid(tuple(shapes), 2, 4, tokens.device),
            part=slice(0, length),
            starts=first_rows(2, length * 2, tokens.device),
        )
    torch.testing.assert_close(found, expected, atol=TOLERANCE, rtol=0)


@settings(max_examples=60)
@given(
    shape=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    new_shape=st.tuples(st.integers(1, 40), st.integers(1, 40)),
)
def test_resizing_equals_interpolation(shape: tuple[int, int], new_shape: tuple[int, int]) -> None:
    maps = images(2, 3, *shape)
    # In float64: in float32 the library itself is off by more than is allowed here.
    exact = F.interpolate(maps.double(), new_shape, mode="bilinear", align_corners=False)
    expected = exact.float()
    found = map_of(resize(tokens_of(maps), shape, new_shape), new_shape)
    torch.testing.assert_close(found, expected, atol=TOLERANCE, rtol=0)
