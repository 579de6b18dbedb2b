"""Multi-scale deformable attention for inference, as one weighted sum of rows.

Zhu et al., "Deformable DETR" (ICLR 2021), eq. (3). A token looks at P points in each of L maps, and
a point between cells takes bilinear shares of four: a weighted sum of 4*L*P rows of a table that
holds the values of all maps. `torch.nn.functional.embedding_bag` is that sum. A GPU has a kernel of
its own: `deformable_kernel`.

What differs from the library: it lays the values of each head out as images, samples them with
`grid_sample`, stores every sampled vector, and then weighs and adds them. Here nothing but indices
and weights is stored between the projections. The numbers are the same but for the order in which
they are added. What only training or masked images need is left out.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from extract.segmenters.vita.forms import constant
from extract.segmenters.vita.tokens import Shape


@dataclass(frozen=True)
class Axis:
    """What the sizes of the maps say along x or y, for M = heads * L * P points a token.

    Coordinates count cells of the map that is sampled, with 0 at the centre of its first cell.

    Attributes:
        centre: (S, M), a token's own place in the map of each point.
        last: (M,), the last cell that has a next one, or 0.
        step: (M,), from a cell to the next: 1, or infinite where a map has only one cell, which
            leaves the other no share.
    """

    centre: Tensor
    last: Tensor
    step: Tensor


@dataclass(frozen=True)
class SamplingGrid:
    """The constants of a frame size: of both axes, and of rows of the value table.

    Attributes:
        width: (M,), cells in a row of a point's map.
        start: (M,), row of the value table with the first cell of a point's map, for its head.
        others: three of (M,) int32: rows from a cell to the one on the right, below, and both.
    """

    x: Axis
    y: Axis
    width: Tensor
    start: Tensor
    others: tuple[Tensor, ...]


@constant(maxsize=4)  # videos of a few sizes may alternate
def sampling_grid(
    shapes: tuple[Shape, ...], heads: int, points: int, device: torch.device
) -> SamplingGrid:
    """The constants of a frame size; `shapes` are height and width of the L maps, in order."""

    def spread(values: Tensor) -> Tensor:
        """(..., L) -> (..., M): points are ordered by head, map, point."""
        each = values[..., None, :, None].expand(*values.shape[:-1], heads, -1, points)
        return each.flatten(-3).to(device)

    def axis(centres: Tensor, lengths: Tensor) -> Axis:
        """Of relative centres (S,) and lengths (L,)."""
        return Axis(
            centre=spread(centres[:, None] * lengths - 0.5),
            last=spread((lengths - 2).clamp(min=0).float()),
            step=spread(torch.where(lengths > 1, 1.0, torch.inf)),
        )

    # Ordinary tensors although the caller infers: they outlive the call.
    with torch.inference_mode(False):
        height, width = torch.tensor(shapes).unbind(1)  # (L,)
        y, x = torch.cat([relative_centres(*shape) for shape in shapes], 1)  # (S,)
        # Rows are ordered by cell, then by head.
        first = ((height * width).cumsum(0) - height * width) * heads  # (L,)
        head = torch.arange(heads).repeat_interleave(len(shapes) * points)  # (M,)
        right = spread(torch.where(width > 1, heads, 0)).int()
        below = spread(torch.where(height > 1, width * heads, 0)).int()
        return SamplingGrid(
            x=axis(x, width),
            y=axis(y, height),
            width=spread(width.float()),
            start=spread(first).float() + head.to(device),
            others=(right, below, right + below),
        )


def relative_centres(height: int, width: int) -> Tensor:
    """(2, height*width): y and x of the centres of cells, as fractions of the map."""
    y, x = (torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width
    return torch.stack(torch.meshgrid(y, x, indexing="ij")).flatten(1)


def value_table(attention: nn.Module, tokens: Tensor) -> Tensor:
    """(t, S, C) -> (t*S*heads, D): what a head may see of each token."""
    return attention.value_proj(tokens).view(-1, tokens.shape[-1] // attention.n_heads)


def sample(
    attention: nn.Module,
    queries: Tensor,
    table: Tensor,
    grid: SamplingGrid,
    *,
    part: slice,
    starts: Tensor,
) -> Tensor:
    """What the library's multi-scale deformable attention says to some of the tokens.

    Args:
        attention: the library's module, for its projections and sizes.
        queries: (t, s, C) float32, tokens with their positions.
        table: `value_table` of all tokens of all frames.
        grid: `sampling_grid` of the maps whose cells the tokens are.
        part: which s of the S tokens of a frame the queries are.
        starts: (t, 1, 1) int32, the first row of each query's frame in the table.

    Returns:
        (t, s, C) float32.
    """
    first, shares = _cells(attention, queries, grid, part)
    first = first.add_(starts)
    rows = [first, *(first + other for other in grid.others)]
    rows, shares = (
        # (t, s, heads, 4, L*P) -> (t*s*heads, 4*L*P)
        torch.stack([each.unflatten(2, (attention.n_heads, -1)) for each in four], 3)
        .flatten(3)
        .flatten(0, 2)
        for four in (rows, shares)
    )
    mixed = F.embedding_bag(rows, table, per_sample_weights=shares, mode="sum")
    return attention.output_proj(mixed.view_as(queries))


def _cells(
    attention: nn.Module, queries: Tensor, grid: SamplingGrid, part: slice
) -> tuple[Tensor, list[Tensor]]:
    """The first of the four cells around each point, and what each of the four counts.

    Returns:
        Row of the first cell in the table of one frame, (t, s, M) int32; weights of it, of the one
        to the right, the one below, and both, (t, s, M) each.
    """
    # The layer's outputs are x and y of each point in turn: apart, each is contiguous.
    weight, bias = attention.sampling_offsets.weight, attention.sampling_offsets.bias
    x, near_x, far_x = _neighbours(F.linear(queries, weight[0::2], bias[0::2]), grid.x, part)
    y, near_y, far_y = _neighbours(F.linear(queries, weight[1::2], bias[1::2]), grid.y, part)
    row = torch.add(grid.start, torch.addcmul(x, y, grid.width), alpha=attention.n_heads)
    # Broken weights make places that are no numbers, and so are the shares of cells then, and what
    # comes of them; but a row that does not exist would stop the device.
    first = row.nan_to_num_(nan=0.0).int()
    logits = attention.attention_weights(queries).unflatten(2, (attention.n_heads, -1))
    weights = _softmax(logits).flatten(2)  # (t, s, M)
    near_y, far_y = near_y.mul_(weights), far_y.mul_(weights)
    return first, [near_y * near_x, near_y * far_x, far_y * near_x, far_y * far_x]


def _neighbours(offsets: Tensor, axis: Axis, part: slice) -> tuple[Tensor, Tensor, Tensor]:
    """The lower of a point's two neighbours along an axis, and the shares of both.

    Args:
        offsets: (t, s, M), from a token's own place to the points; overwritten.
        part: which s of the S tokens of a frame these are.

    Returns:
        The lower one's place in its map, its share, and that of the upper one.
    """
    places = offsets.add_(axis.centre[part])
    cells = torch.minimum(places.floor().clamp_(min=0), axis.last)
    # A share falls from 1 at a cell's centre to 0 at the next. Where a point lies outside of the
    # map, the cells are not its neighbours, and their share is 0 by the same rule.
    beyond = places.sub_(cells)
    near = F.relu_(1 - beyond.abs())
    far = F.relu_(1 - beyond.sub_(axis.step).abs_())
    return cells, near, far


def _softmax(logits: Tensor) -> Tensor:
    """Softmax over the last dimension; torch's is seven times slower on a dozen."""
    powers = (logits - logits.amax(-1, keepdim=True)).exp_()
    return powers.div_(powers.sum(-1, keepdim=True))
