"""Hungarian matching of predicted and true masks of one sample."""

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from cache_schema.cli import InputError


class Diverged(InputError):
    """Training left the finite numbers; the message says where and what to try."""


def mask_cost(logits: Tensor, targets: Tensor) -> Tensor:
    """Binary cross-entropy of every prediction with every target, mean over points.

    Args:
        logits: (..., P, N).
        targets: (..., P, M), from 0 to 1.

    Returns:
        (..., N, M).
    """
    # BCE(x, t) = softplus(x) - x t
    apart = _total(F.softplus(logits))[..., None] - logits.mT @ targets
    return apart / logits.shape[-2]


def dice_cost(logits: Tensor, targets: Tensor) -> Tensor:
    """Dice loss with smoothing 1 of every prediction with every target, shapes as `mask_cost`."""
    predictions = logits.sigmoid()
    total = _total(predictions)[..., None] + _total(targets)[..., None, :]
    return 1.0 - (2.0 * (predictions.mT @ targets) + 1.0) / (total + 1.0)


def _total(values: Tensor) -> Tensor:
    """Sums over points, (..., P, N) to (..., N), as a product, which is twice as fast."""
    ones = values.new_ones(1, values.shape[-2])
    return (ones @ values).squeeze(-2)


def assign(cost: np.ndarray) -> tuple[Tensor, Tensor]:
    """The cheapest one-to-one assignment.

    Args:
        cost: (N, M).

    Returns:
        min(N, M) prediction and target indices, int64, ordered by prediction.

    Raises:
        Diverged: a cost is not finite.
    """
    if not np.isfinite(cost).all():
        raise Diverged(
            "the predictions are no longer finite numbers (a matching cost is NaN or infinite); "
            "lower optimizer.lr, or check the cached features for infinite values"
        )
    predictions, targets = linear_sum_assignment(cost)
    return torch.from_numpy(predictions), torch.from_numpy(targets)
