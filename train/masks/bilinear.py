"""Bilinear values of maps at points, which lie between the pixels' centres.

Coordinates are (x, y), fractions of the map's width and height. Beyond its edge a map is zero, so
within half a pixel of the edge a value counts in part only, as in `grid_sample`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def sample(maps: Tensor, points: Tensor) -> Tensor:
    """Values of maps at points, differentiable.

    Args:
        maps: (R, K, h, w) float; K maps share their points.
        points: (R, P, 2).

    Returns:
        (R, K, P).
    """
    grid = torch.add(-points.new_ones(()), points[:, :, None], alpha=2.0)  # (R, P, 1, 2)
    return F.grid_sample(maps, grid, align_corners=False)[..., 0]


def neighbours(points: Tensor, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """The four pixels around each point and how much each counts.

    For maps that `grid_sample` does not take: of other number types, or with many values a pixel.

    Args:
        points: (..., 2).

    Returns:
        Column x and row y of each pixel, (..., 4) int64, and its weight, (..., 4): zero where the
        pixel would lie outside, and then the column and row of another.
    """
    columns, x_parts = _along(points[..., 0], width)
    rows, y_parts = _along(points[..., 1], height)
    order = [(0, 0), (0, 1), (1, 0), (1, 1)]
    return (
        torch.stack([columns[i] for _, i in order], dim=-1),
        torch.stack([rows[j] for j, _ in order], dim=-1),
        torch.stack([y_parts[j] * x_parts[i] for j, i in order], dim=-1),
    )


def _along(places: Tensor, size: int) -> tuple[list[Tensor], list[Tensor]]:
    """The pixels before and after each place on one axis, and their weights."""
    places = places * size - 0.5
    first = places.floor()
    part = places - first
    pixels, parts = [], []
    for pixel, weight in [(first, 1.0 - part), (first + 1.0, part)]:
        inside = pixel.clamp(0.0, size - 1.0)
        pixels.append(inside.long())
        parts.append(weight * (pixel == inside))
    return pixels, parts
