"""Matching costs of all pairs of predicted and true masks, out of sums over points."""

from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor

from train.masks.tables import parts_of
from train.memory import on_cpu

FACTORS = 64
"""Numbers from 1/2 to 1 that are multiplied before their logarithm is taken."""


@dataclass
class PairSums:
    """Sums over points from which the costs of predictions and targets follow.

    Attributes:
        points: how many.
        softplus: of the logits, (..., N).
        probability: of the predictions, (..., N).
        target: (..., M).
        logit_target: logit times target, (..., N, M).
        overlap: probability times target, (..., N, M).
    """

    points: int
    softplus: Tensor
    probability: Tensor
    target: Tensor
    logit_target: Tensor
    overlap: Tensor

    @classmethod
    @torch.no_grad()
    def of(cls, logits: Tensor, targets: Tensor) -> "PairSums":
        """Sums over the points of logits (..., P, N) and targets (..., P, M), from 0 to 1.

        Without gradients: matching has none.
        """
        if not on_cpu(logits):
            return cls._in_parts(logits, targets)
        # One product for all sums of a kind. The other way round, N would be the side that is
        # turned: three times slower.
        rows = torch.cat([targets, targets.new_ones(*targets.shape[:-1], 1)], dim=-1).mT
        with_logits = rows[..., :-1, :] @ logits
        predictions = logits.sigmoid()
        with_predictions = rows @ predictions
        # softplus(x) = max(x, 0) - log p, with p the larger of sigmoid(x) and 1 - sigmoid(x).
        softplus = -_log_total(predictions.sub_(0.5).abs_().add_(0.5))
        # Into memory that is in the processor's cache already.
        softplus += torch.clamp_min(logits, 0.0, out=predictions).sum(dim=-2)
        return cls(
            points=logits.shape[-2],
            softplus=softplus,
            probability=with_predictions[..., -1, :],
            target=targets.sum(dim=-2),
            logit_target=with_logits.mT,
            overlap=with_predictions[..., :-1, :].mT,
        )

    @classmethod
    def _in_parts(cls, logits: Tensor, targets: Tensor) -> "PairSums":
        """The same for a GPU: fewer passes over memory, and sums of many short parts."""
        parts = parts_of(logits.shape[-2])
        logits, targets = (own.unflatten(-2, (parts, -1)) for own in (logits, targets))
        rows = torch.cat([targets, targets.new_ones(*targets.shape[:-1], 1)], dim=-1).mT
        with_logits = (rows[..., :-1, :] @ logits).sum(dim=-3)
        with_predictions = (rows @ logits.sigmoid()).sum(dim=-3)
        softplus = (rows[..., -1:, :] @ F.softplus(logits)).sum(dim=-3)
        return cls(
            points=parts * logits.shape[-2],
            softplus=softplus[..., 0, :],
            probability=with_predictions[..., -1, :],
            target=targets.sum(dim=(-3, -2)),
            logit_target=with_logits.mT,
            overlap=with_predictions[..., :-1, :].mT,
        )

    def __add__(self, other: "PairSums") -> "PairSums":
        """Over the points of both."""
        names = (field.name for field in fields(self))
        return PairSums(*(getattr(self, name) + getattr(other, name) for name in names))

    def mask_cost(self) -> Tensor:
        """Binary cross-entropy of each prediction with each target, a mean: (..., N, M)."""
        # BCE(x, t) = softplus(x) - x t
        return (self.softplus[..., None] - self.logit_target) / self.points

    def dice_cost(self) -> Tensor:
        """Dice loss with smoothing 1 of each prediction with each target, (..., N, M)."""
        total = self.probability[..., None] + self.target[..., None, :]
        return 1.0 - (2.0 * self.overlap + 1.0) / (total + 1.0)


def _log_total(values: Tensor) -> Tensor:
    """Sums over points of the logarithms of numbers from 1/2 to 1, (..., P, N) to (..., N).

    A sum of logarithms is that of a product; `FACTORS` of these numbers stay far from the smallest
    float32.
    """
    whole = values.shape[-2] // FACTORS * FACTORS
    products = [
        # Points far from each other are multiplied, so that the inner loop is a long one.
        values[..., :whole, :].unflatten(-2, (FACTORS, -1)).prod(dim=-3),
        values[..., whole:, :].prod(dim=-2, keepdim=True),
    ]
    return torch.cat(products, dim=-2).log_().sum(dim=-2)
