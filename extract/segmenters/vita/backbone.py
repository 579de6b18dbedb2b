"""The backbone for inference: ResNets with folded batch norms, Swins by fewer steps on a GPU.

A batch norm that does not learn is a scale and a shift of every channel, which the convolution
before it can do with its own weights. That changes rounding only. A Swin has no batch norm and runs
as the library wrote it on a processor, where nearly all of its time is matrix products. On a GPU,
where moving numbers costs more than multiplying them, it differs from the library's forward pass
(Liu et al., "Swin Transformer", ICCV 2021) in this:

- Padding, shifting and cutting into windows is one gather, and the way back another.
- Queries, keys and values are one product, of numbers that are narrowed once.
- The positional bias and what hides windows from each other are made once for all frames, and not
  written out for each; attention takes the windows of a frame as heads, so that frames share them.
- Padding leaves before the last product, and the maps of stages have their channels last.

The library's modules hold the weights. The numbers are the same up to rounding.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from extract.segmenters.vita import forms
from extract.segmenters.vita.forms import constant
from extract.segmenters.vita.tokens import Shape, map_of


class FoldedBackbone:
    """A backbone with its batch norms folded, which follows the weights that it was made from.

    Not a module: the folded weights are in no state dictionary, and when the backbone's own are
    loaded, moved or changed, the next call folds them again.
    """

    def __init__(self, backbone: nn.Module) -> None:
        self._backbone = backbone
        self._has_norms = any(isinstance(each, nn.BatchNorm2d) for each in backbone.modules())
        self._folded = backbone
        self._state: list[Any] = []

    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        """(t, 3, Hp, Wp) -> the maps (t, C_l, h_l, w_l) of the stages, fine to coarse."""
        if forms.gpu(images) and hasattr(self._backbone, "swin"):
            return swin_maps(self._backbone, images)
        layout = forms.layout(images.device)
        if self._has_norms and self._state != (state := [layout, *state_of(self._backbone)]):
            self._folded, self._state = _fold(self._backbone, layout), state
        return self._folded(images.contiguous(memory_format=layout)).feature_maps


def _fold(backbone: nn.Module, layout: torch.memory_format) -> nn.Module:
    """A copy of the library's ResNet without batch norms."""
    backbone = copy.deepcopy(backbone).eval()
    for module in backbone.modules():
        if isinstance(getattr(module, "normalization", None), nn.BatchNorm2d):
            module.convolution = fuse_conv_bn_eval(module.convolution, module.normalization)
            module.normalization = nn.Identity()
        elif isinstance(module, nn.ReLU):
            module.inplace = True  # what it takes are convolutions and sums, read by nothing else
    return backbone.to(memory_format=layout)


def state_of(backbone: nn.Module) -> list[tuple[int, int]]:
    """What changes whenever weights do: where they are, and how often they were written to."""
    return [
        (tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version)
        for tensor in [*backbone.parameters(), *backbone.buffers()]
    ]


def swin_maps(backbone: nn.Module, images: Tensor) -> tuple[Tensor, ...]:
    """(t, 3, Hp, Wp) -> the maps (t, C_l, h_l, w_l) of the stages, fine to coarse.

    Args:
        backbone: the library's ``SwinBackbone``.
    """
    tokens, shape = backbone.swin.embeddings(images)  # (t, h*w, C)
    maps = []
    for stage, name in zip(backbone.swin.encoder.layers, backbone.stage_names[1:], strict=True):
        for layer in stage.blocks:
            tokens = _layer(layer, tokens, tuple(shape))
        if name in backbone.out_features:
            maps.append(map_of(backbone.hidden_states_norms[name](tokens), shape))
        if stage.downsample is not None:
            tokens = stage.downsample(tokens, shape)
            shape = tuple((length + 1) // 2 for length in shape)
    return tuple(maps)


def _layer(layer: nn.Module, tokens: Tensor, shape: Shape) -> Tensor:
    """Attention in windows and feed-forward, residual around each: (t, h*w, C) -> the same."""
    attended = _attend(layer, _narrowed(layer.layernorm_before(tokens)), shape)
    tokens = tokens + attended
    return tokens + layer.mlp(_narrowed(layer.layernorm_after(tokens)))


def _attend(layer: nn.Module, tokens: Tensor, shape: Shape) -> Tensor:
    """Attention of each cell to its window, (t, h*w, C) -> the same."""
    attention, size = layer.attention, layer.window_size
    cells, back = _windows(shape, size, layer.shift_size, tokens.device)
    count, heads = len(cells) // size**2, attention.num_attention_heads
    if len(cells) > len(back):  # cells of padding are zero
        tokens = F.pad(tokens, (0, 0, 0, 1))
    windows = tokens.index_select(1, cells)  # (t, windows*N, C)
    layers = attention.q_proj, attention.k_proj, attention.v_proj
    weight = torch.cat([each.weight for each in layers])
    bias = torch.cat([each.bias for each in layers])
    projected = F.linear(windows, weight, bias)  # (t, windows*N, 3*C)
    queries, keys, values = (
        projected.view(len(tokens), count, size**2, 3, heads, -1)
        .permute(3, 0, 1, 4, 2, 5)  # (3, t, windows, heads, N, D)
        .flatten(2, 3)
    )
    mask = attention.relative_position_bias()  # (1, heads, N, N)
    if layer.shift_size > 0:
        padded = [length + -length % size for length in shape]
        hidden = layer.get_attn_mask(*padded, dtype=mask.dtype, device=mask.device)
        mask = mask + hidden.unsqueeze(1)  # (windows, heads, N, N)
    mask = mask.expand(count, -1, -1, -1).flatten(0, 1).to(queries.dtype)
    # (t, windows*heads, N, D)
    mixed = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask.unsqueeze(0))
    # (t, windows, heads, N, D) -> (t, windows*N, C)
    mixed = mixed.unflatten(1, (count, heads)).transpose(2, 3).flatten(3).flatten(1, 2)
    return attention.o_proj(mixed.index_select(1, back))


def _narrowed(tokens: Tensor) -> Tensor:
    """In the type of products, once for all that read them."""
    kind = tokens.device.type
    return tokens.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else tokens


@constant(maxsize=16)
def _windows(shape: Shape, size: int, shift: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Which cell each place in a window holds, (windows*N,), and the place of each cell, (h*w,).

    Windows go over the padded map, shifted around its edges; padding is cell h*w.
    """
    height, width = shape
    with torch.inference_mode(False):
        cells = torch.arange(height * width).view(height, width)
        cells = F.pad(cells, (0, -width % size, 0, -height % size), value=height * width)
        cells = cells.roll((-shift, -shift), (0, 1))
        windows = cells.unflatten(0, (-1, size)).unflatten(2, (-1, size)).transpose(1, 2).flatten()
        places = torch.empty(height * width + 1, dtype=torch.long)
        places[windows] = torch.arange(len(windows))
        return windows.to(device), places[:-1].to(device)
