"""Point sampling: masks are compared at a few points instead of at every pixel.

The points of the loss lie where the prediction is least certain (PointRend). Coordinates are
(x, y), fractions of the padded image, so a target can stay at its own resolution.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

RandomPoints = Callable[[int, int], Tensor]
"""(rows, points) to uniform numbers (rows, points, 2) in [0, 1); a test feeds recorded ones."""


def uniform_points(device: torch.device) -> RandomPoints:
    """The ordinary source: torch's global generator of the device."""
    return lambda rows, points: torch.rand(rows, points, 2, device=device)


def sample(maps: Tensor, points: Tensor) -> Tensor:
    """Bilinear values at points; beyond the edge a map is zero.

    Args:
        maps: (R, h, w) float.
        points: (R, P, 2), or (1, P, 2) for one set of points on all maps.

    Returns:
        (R, P).
    """
    grid = 2.0 * points[:, :, None] - 1.0  # (R or 1, P, 1, 2)
    if points.shape[0] == 1:
        # Maps as channels: the weights of a point are computed once for all of them.
        values = F.grid_sample(maps[None], grid, align_corners=False)  # (1, R, P, 1)
        return values[0, :, :, 0]
    return F.grid_sample(maps[:, None], grid, align_corners=False)[:, 0, :, 0]


def sample_targets(masks: Tensor, points: Tensor, extent: Tensor) -> Tensor:
    """Values of target masks at points of the padded image.

    The image fills only the upper left part of the padded one, the rest is zero. Resizing keeps
    fractions of the image, so a division by that part's extent leads to the original pixels.

    Args:
        masks: (R, H, W), any number type, at original size.
        points: (R or 1, P, 2), fractions of the padded image.
        extent: (R or 1, 1, 2), (x, y) fraction of the padded image that the image fills.

    Returns:
        (R, P) float32.
    """
    return sample(masks.float(), points / extent)


@torch.no_grad()
def uncertain_points(
    logits: Tensor,
    num_points: int,
    random: RandomPoints,
    *,
    oversample_ratio: float = 3.0,
    importance_ratio: float = 0.75,
) -> Tensor:
    """Points for the loss: the least certain of many, and some at random.

    Args:
        logits: (R, h, w) mask logits; the closer to zero, the less certain.
        num_points: P.
        random: called first for the candidates, then for the random points.
        oversample_ratio: candidates per point.
        importance_ratio: share of the points that is chosen for being uncertain.

    Returns:
        (R, P, 2).
    """
    rows = logits.shape[0]
    candidates = random(rows, int(num_points * oversample_ratio))  # (R, 3P, 2)
    num_uncertain = int(num_points * importance_ratio)
    extra = random(rows, num_points - num_uncertain)
    certainty = sample(logits, candidates).abs()  # (R, 3P)
    chosen = certainty.topk(num_uncertain, dim=1, largest=False, sorted=False).indices
    uncertain = candidates.gather(1, chosen[:, :, None].expand(-1, -1, 2))  # (R, P', 2)
    return torch.cat([uncertain, extra], dim=1)
