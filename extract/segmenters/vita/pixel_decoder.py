"""Mask2Former's pixel decoder for inference: backbone maps to attended and fine maps.

Cheng et al., "Masked-attention Mask Transformer for Universal Image Segmentation" (CVPR 2022).
The library's modules hold the weights. What differs from the library's forward pass:

- Deformable attention is `deformable.sample`, on a GPU a kernel; resizing is `tokens.resize`.
- What depends on a frame's size only is computed once for a size, and not for every frame.
- Maps have their channels last, so that their cells are tokens without a copy; sums and ReLU are
  done in place; on a processor, tokens go through a layer in blocks that fit its cache.
- Mask2Former's own mask features, of which inference needs only coarse ones, are left out.

The numbers are the same up to rounding.
"""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from extract.segmenters.vita import forms
from extract.segmenters.vita.deformable import sample, sampling_grid, value_table
from extract.segmenters.vita.deformable_kernel import KernelError, sample_by_kernel
from extract.segmenters.vita.tokens import (
    Shape,
    first_rows,
    map_of,
    position_tokens,
    resize,
    tokens_of,
)

# Tokens that go through a layer together on a processor: what comes of them fits its cache.
CACHED_TOKENS = 2048


@dataclass
class Pixels:
    """What the pixel decoder says of t frames.

    Attributes:
        levels: (t, h_l*w_l, C) float32, the attended maps as tokens, coarse to fine.
        shapes: h_l and w_l of each.
        finest: (t, C, h, w) float32, the map at stride 4, before any mask projection.
    """

    levels: list[Tensor]
    shapes: tuple[Shape, ...]
    finest: Tensor


def decode_pixels(decoder: nn.Module, maps: tuple[Tensor, ...]) -> Pixels:
    """Deformable attention over the coarse maps, then a feature pyramid down to stride 4.

    Args:
        decoder: the library's ``Mask2FormerPixelDecoder``.
        maps: (t, C_l, h_l, w_l) of the backbone, fine to coarse.
    """
    # (t, C_l, h_l, w_l), on a processor in memory (t, h_l, w_l, C_l)
    layout = forms.layout(maps[0].device)
    maps = [each.float().contiguous(memory_format=layout) for each in maps]
    coarse = [
        _convolve(layers, each)
        for layers, each in zip(decoder.input_projections, maps[::-1], strict=False)
    ]
    shapes = tuple(tuple(each.shape[-2:]) for each in coarse)
    tokens = torch.cat([tokens_of(each) for each in coarse], 1)  # (t, S, C)
    positions = torch.cat(
        [
            position_tokens(tokens.shape[-1], shape, tokens.device) + embedding
            for shape, embedding in zip(shapes, decoder.level_embed, strict=True)
        ]
    )  # (S, C)
    for layer in decoder.encoder.layers:
        tokens = _encoder_layer(layer, tokens, positions, shapes)
    levels = list(tokens.split([height * width for height, width in shapes], 1))

    return Pixels(levels, shapes, _pyramid(decoder, levels[-1], shapes[-1], maps))


def _pyramid(decoder: nn.Module, finer: Tensor, shape: Shape, maps: list[Tensor]) -> Tensor:
    """From the finest attended map, (t, h_l*w_l, C), down to stride 4: (t, C, h, w)."""
    fine = maps[: decoder.num_fpn_levels][::-1]
    for each, lateral, output in zip(
        fine, decoder.lateral_convolutions, decoder.output_convolutions, strict=True
    ):
        coarser, shape = resize(finer, shape, tuple(each.shape[-2:])), tuple(each.shape[-2:])
        sums = _convolve(lateral, each).add_(map_of(coarser, shape))
        sums = sums.contiguous(memory_format=forms.layout(sums.device))
        finer = tokens_of(_convolve(output, sums))
    return map_of(finer, shape)


def _convolve(layers: nn.Sequential, maps: Tensor) -> Tensor:
    """Convolution, group norm and what follows: (t, C, h, w) -> (t, C', h, w).

    On a processor, torch norms maps with channels last in a way that loses the digits by which a
    group's mean is above its deviation. Taking the mean away beforehand keeps them, and changes
    nothing else.
    """
    convolution, norm, *others = layers
    maps = convolution(maps)
    if not forms.gpu(maps):
        means = tokens_of(maps).mean(1).unflatten(1, (norm.num_groups, -1)).mean(2, keepdim=True)
        means = means.expand(-1, -1, maps.shape[1] // norm.num_groups).flatten(1)  # (t, C')
        maps = norm(maps.sub_(means[..., None, None]))
    elif forms.layout(maps.device) == torch.channels_last:
        maps = _group_norm(norm, maps)
    else:
        maps = norm(maps)
    for other in others:
        maps = other(maps)
    return maps


def _group_norm(norm: nn.GroupNorm, maps: Tensor) -> Tensor:
    """As torch, which on a GPU puts channels first, however; what follows wants them last."""
    variance, mean = (
        each.unflatten(1, (norm.num_groups, -1))
        for each in torch.var_mean(tokens_of(maps), 1, correction=0)
    )  # of channels, (t, groups, C/groups)
    centre = mean.mean(2, keepdim=True)
    variance = (variance + (mean - centre).square()).mean(2, keepdim=True)  # of groups
    weight, bias = (each.view(norm.num_groups, -1) for each in (norm.weight, norm.bias))
    scale = weight * (variance + norm.eps).rsqrt()
    shift = bias - centre * scale
    shift, scale = (each.flatten(1)[..., None, None] for each in (shift, scale))  # (t, C, 1, 1)
    return torch.addcmul(shift, maps, scale)


def _encoder_layer(
    layer: nn.Module, tokens: Tensor, positions: Tensor, shapes: tuple[Shape, ...]
) -> Tensor:
    """Deformable self-attention and feed-forward layer, each with residual and norm after it."""
    attention = layer.self_attn
    attended = _sample_on_gpu(attention, tokens, positions, shapes) if forms.gpu(tokens) else None
    if attended is not None:
        return _rest(layer, tokens, attended)
    grid = sampling_grid(shapes, attention.n_heads, attention.n_points, tokens.device)
    table = value_table(attention, tokens)
    frames, length, _ = tokens.shape
    starts = first_rows(frames, len(table) // frames, tokens.device)
    output = torch.empty_like(tokens)
    for some, part in _blocks(frames, length):
        before = tokens[some, part]
        attended = sample(
            attention, before + positions[part], table, grid, part=part, starts=starts[some]
        )
        output[some, part] = _rest(layer, before, attended)
    return output


def _sample_on_gpu(
    attention: nn.Module, tokens: Tensor, positions: Tensor, shapes: tuple[Shape, ...]
) -> Tensor | None:
    """`sample_by_kernel`, or None once that has failed."""
    if forms.KERNEL:
        try:
            return sample_by_kernel(attention, tokens, positions, shapes)
        except KernelError as error:
            forms.KERNEL = False
            warnings.warn(f"slow deformable attention, for want of a kernel: {error}", stacklevel=2)
    return None


def _rest(layer: nn.Module, before: Tensor, attended: Tensor) -> Tensor:
    """What follows the attention of a layer."""
    between = layer.self_attn_layer_norm(attended.add_(before))
    return layer.final_layer_norm(layer.fc2(_widened(layer.fc1, between)).add_(between))


def _widened(linear: nn.Linear, tokens: Tensor) -> Tensor:
    """Product, bias and ReLU, on a GPU by one kernel: (t, s, C) -> (t, s, C')."""
    if not forms.gpu(tokens):
        return F.relu_(linear(tokens))
    rows = torch._addmm_activation(linear.bias, tokens.flatten(0, 1), linear.weight.t())
    return rows.unflatten(0, tokens.shape[:2])


def _blocks(frames: int, length: int) -> Iterator[tuple[slice, slice]]:
    """Frames and tokens to go through a layer together."""
    together = max(CACHED_TOKENS // length, 1)
    for frame in range(0, frames, together):
        for token in range(0, length, CACHED_TOKENS):
            yield slice(frame, frame + together), slice(token, token + CACHED_TOKENS)
