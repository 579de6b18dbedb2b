"""Feature maps as tokens: a map (t, C, h, w) is h*w tokens of C channels, row by row; attention."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.models.mask2former.modeling_mask2former import Mask2FormerSinePositionEmbedding

from extract.segmenters.vita import forms
from extract.segmenters.vita.forms import constant

Shape = tuple[int, int]  # h, w


def tokens_of(maps: Tensor) -> Tensor:
    """(t, C, h, w) -> (t, h*w, C); a view, and contiguous if the map has its channels last."""
    return maps.flatten(2).transpose(1, 2)


def map_of(tokens: Tensor, shape: Shape) -> Tensor:
    """(t, h*w, C) -> (t, C, h, w), a view with its channels last."""
    return tokens.unflatten(1, shape).permute(0, 3, 1, 2)


def resize(tokens: Tensor, shape: Shape, new_shape: Shape) -> Tensor:
    """Bilinear, as `torch.nn.functional.interpolate` does it without aligned corners.

    A cell is the weighted sum of four tokens, which `embedding_bag` does on contiguous channels
    and `interpolate` does not: it is 10 to 30 times slower on a processor. A GPU has kernels for
    channels that come last, which are used here, and is slow where they come first.

    Args:
        tokens: (t, h*w, C) float32 of a map of `shape`.

    Returns:
        (t, h'*w', C) float32 of a map of `new_shape`.
    """
    if forms.gpu(tokens):
        down, right = (old // new for old, new in zip(shape, new_shape, strict=True))
        if shape == (down * new_shape[0], right * new_shape[1]) and down % 2 == right % 2 == 0:
            return _middle(tokens.unflatten(1, shape), down, right).flatten(1, 2)
        maps = map_of(tokens, shape).contiguous(memory_format=torch.channels_last)
        return tokens_of(F.interpolate(maps, new_shape, mode="bilinear", align_corners=False))
    rows, shares = _bilinear(shape, new_shape, tokens.device)
    frames, length, channels = tokens.shape
    rows = (first_rows(frames, length, tokens.device) + rows).flatten(0, 1)  # (t*h'*w', 4)
    table = tokens.reshape(-1, channels)  # (t*h*w, C)
    resized = F.embedding_bag(rows, table, per_sample_weights=shares.repeat(frames, 1), mode="sum")
    return resized.view(frames, -1, channels)


def _middle(cells: Tensor, down: int, right: int) -> Tensor:
    """The mean of the four cells in the middle of each block: (t, h, w, C) -> (t, h', w', C).

    Bilinear resizing is just that: the centre of a block is where these four meet.

    Args:
        down, right: h / h' and w / w', even.
    """
    first, *others = (
        cells[:, y::down, x::right]
        for y in (down // 2 - 1, down // 2)
        for x in (right // 2 - 1, right // 2)
    )
    sums = first + others[0]
    return sums.add_(others[1]).add_(others[2]).mul_(0.25)


def first_rows(frames: int, length: int, device: torch.device) -> Tensor:
    """(t, 1, 1) int32: where each frame starts in a table of `length` rows a frame."""
    return torch.arange(0, frames * length, length, dtype=torch.int32, device=device).view(-1, 1, 1)


@constant(maxsize=12)  # three or four a frame size
def position_tokens(channels: int, shape: Shape, device: torch.device) -> Tensor:
    """The library's sine position embedding, (h*w, C) float32."""
    embed = Mask2FormerSinePositionEmbedding(channels // 2, normalize=True)
    # An ordinary tensor although the caller infers: it outlives the call.
    with torch.inference_mode(False):
        maps = embed(torch.Size((1, channels, *shape)), device, torch.float32)
        return tokens_of(maps)[0].contiguous()


@constant(maxsize=16)
def _bilinear(shape: Shape, new_shape: Shape, device: torch.device) -> tuple[Tensor, Tensor]:
    """The four cells that each new cell is made of, (h'*w', 4) int32, and their shares."""
    with torch.inference_mode(False):
        (rows, columns), (y, x) = zip(*map(_linear, shape, new_shape), strict=True)
        cells = rows[:, None, :, None] * shape[1] + columns[None, :, None, :]  # (h', w', 2, 2)
        shares = y[:, None, :, None] * x[None, :, None, :]
        return cells.reshape(-1, 4).int().to(device), shares.reshape(-1, 4).float().to(device)


def _linear(length: int, new_length: int) -> tuple[Tensor, Tensor]:
    """The same along an axis: (n', 2) cells, and their shares in float64."""
    centre = (torch.arange(new_length, dtype=torch.float64) + 0.5) * (length / new_length) - 0.5
    centre = centre.clamp(0, length - 1)
    cell = centre.floor()
    share = centre - cell
    cells = torch.stack([cell, (cell + 1).clamp(max=length - 1)], 1).long()
    return cells, torch.stack([1 - share, share], 1)


def multihead(
    attention: nn.MultiheadAttention,
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    visible: Tensor | None = None,
) -> Tensor:
    """What the module says without dropout, batch first whatever it was built for.

    The module itself, where nothing is masked and nothing learns, multiplies out (N, N) weights
    for every head; and tokens that are not batch first become a product of their own each.

    Args:
        queries: (B, N, C).
        keys, values: (B, M, C).
        visible: (B, N, M) bool, which keys a query may look at; at least one each.

    Returns:
        (B, N, C).
    """
    weights, biases = attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3)
    projected = map(F.linear, (queries, keys, values), weights, biases)
    return attention.out_proj(attend(*projected, attention.num_heads, visible))


def attend(
    queries: Tensor, keys: Tensor, values: Tensor, heads: int, visible: Tensor | None = None
) -> Tensor:
    """The same between projections, heads side by side: (B, N, C) and (B, M, C) -> (B, N, C)."""
    by_head = [each.unflatten(2, (heads, -1)).transpose(1, 2) for each in (queries, keys, values)]
    mask = None if visible is None else visible.unsqueeze(1)  # (B, 1, N, M)
    mixed = F.scaled_dot_product_attention(*by_head, attn_mask=mask)  # (B, heads, N, D)
    return mixed.transpose(1, 2).flatten(2)
