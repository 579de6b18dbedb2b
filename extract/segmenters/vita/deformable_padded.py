"""Multi-scale deformable attention as in `deformable`, for a GPU where `deformable_kernel` fails.

On a GPU, building indices and weights is as costly as the weighted sum itself, and each step is a
pass over memory. Here every map has a border of zeros, to which points outside are moved: a share
is then what is left of a place behind its cell, and nothing asks whether a cell exists.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from extract.segmenters.vita.constants import constant
from extract.segmenters.vita.deformable import relative_centres
from extract.segmenters.vita.tokens import Shape, first_rows


@dataclass(frozen=True)
class PaddedGrid:
    """The constants of a frame size, for M = heads * L * P points a token.

    Coordinates count cells of a padded map, with 0 at the centre of the first one of its border.

    Attributes:
        centres: of x and y, (S, M) each: a token's own place in the map of each point.
        last: of x and y, (M,) each: just before the last cell of the border.
        zero: (M,), where the border starts.
        width: (M,), cells in a row of a point's padded map.
        start: (M,), row of the value table with the first cell of that map, for its head.
        others: three of (M,) int32: rows from a cell to the one on the right, below, and both.
    """

    centres: tuple[Tensor, Tensor]
    last: tuple[Tensor, Tensor]
    zero: Tensor
    width: Tensor
    start: Tensor
    others: tuple[Tensor, ...]


@constant(maxsize=4)
def padded_grid(
    shapes: tuple[Shape, ...], heads: int, points: int, device: torch.device
) -> PaddedGrid:
    """The constants of a frame size; `shapes` are height and width of the L maps, in order."""

    def spread(values: Tensor) -> Tensor:
        """(..., L) -> (..., M): points are ordered by head, map, point."""
        each = values[..., None, :, None].expand(*values.shape[:-1], heads, -1, points)
        return each.flatten(-3).to(device)

    # Ordinary tensors although the caller infers: they outlive the call.
    with torch.inference_mode(False):
        height, width = torch.tensor(shapes).unbind(1)  # (L,)
        y, x = torch.cat([relative_centres(*shape) for shape in shapes], 1)  # (S,)
        ends = [torch.nextafter(each + 1.0, torch.zeros(())) for each in (width, height)]
        cells = (height + 2) * (width + 2)
        first = (cells.cumsum(0) - cells) * heads  # (L,)
        head = torch.arange(heads).repeat_interleave(len(shapes) * points)  # (M,)
        right, below = torch.full_like(width, heads), (width + 2) * heads
        return PaddedGrid(
            centres=tuple(
                spread(centre[:, None] * length + 0.5)
                for centre, length in ((x, width), (y, height))
            ),
            last=tuple(map(spread, ends)),
            zero=torch.zeros(len(head), device=device),
            width=spread(width + 2.0),
            start=spread(first).float() + head.to(device),
            others=tuple(spread(each).int() for each in (right, below, right + below)),
        )


def sample_padded(
    attention: nn.Module, tokens: Tensor, positions: Tensor, shapes: tuple[Shape, ...]
) -> Tensor:
    """As `deformable_kernel.sample_by_kernel`, by torch's own operations."""
    heads = attention.n_heads
    grid = padded_grid(shapes, heads, attention.n_points, tokens.device)
    values = attention.value_proj(tokens).split([height * width for height, width in shapes], 1)
    bordered = [
        F.pad(each.unflatten(1, shape), (0, 0, 1, 1, 1, 1)).flatten(1, 2)
        for each, shape in zip(values, shapes, strict=True)
    ]
    table = torch.cat(bordered, 1).view(-1, tokens.shape[-1] // heads)  # (t*S'*heads, D)

    queries = tokens + positions
    # The layer's outputs are x and y of each point in turn: apart, each is contiguous.
    (x, right), (y, below) = (
        _place(F.linear(queries, weight, bias), grid, axis)
        for axis, (weight, bias) in enumerate(
            (attention.sampling_offsets.weight[k::2], attention.sampling_offsets.bias[k::2])
            for k in range(2)
        )
    )
    row = torch.add(grid.start, torch.addcmul(x, y, grid.width), alpha=heads)
    # Broken weights make places that are no numbers; a row that does not exist stops the device.
    first = row.nan_to_num_(nan=0.0).int()
    first = first.add_(first_rows(len(tokens), len(table) // len(tokens), tokens.device))
    weights = attention.attention_weights(queries).unflatten(2, (heads, -1)).softmax(-1)
    return attention.output_proj(_mixed(table, first, grid, weights, right, below))


def _place(offsets: Tensor, grid: PaddedGrid, axis: int) -> tuple[Tensor, Tensor]:
    """The cell before each point along an axis, and the share of the one behind: (t, S, M)."""
    places = offsets.add_(grid.centres[axis]).clamp_(grid.zero, grid.last[axis])
    cells = places.floor()
    return cells, places.sub_(cells)


def _mixed(
    table: Tensor, first: Tensor, grid: PaddedGrid, weights: Tensor, right: Tensor, below: Tensor
) -> Tensor:
    """The weighted sums of four rows a point: (t, S, C).

    Args:
        table: (t*S'*heads, D).
        first: (t, S, M) int32, the row of the upper left cell of each point.
        grid: of the maps.
        weights: (t, S, heads, L*P), of the points.
        right, below: (t, S, M), shares of the cells on the right and below.
    """
    frames, length, heads, points = weights.shape
    shape = frames, length, heads, 4, points
    rows, shares = first.new_empty(shape), weights.new_empty(shape)
    first, right, below = (each.view_as(weights) for each in (first, right, below))
    rows[..., 0, :] = first
    for k, other in enumerate(grid.others, 1):
        torch.add(first, other.view(heads, points), out=rows[..., k, :])
    lower = below.mul_(weights)
    for k, half in ((0, weights.sub(lower)), (2, lower)):
        torch.mul(half, right, out=shares[..., k + 1, :])
        torch.sub(half, shares[..., k + 1, :], out=shares[..., k, :])
    rows, shares = (each.view(-1, 4 * points) for each in (rows, shares))
    mixed = F.embedding_bag(rows, table, per_sample_weights=shares, mode="sum")
    return mixed.view(frames, length, -1)
