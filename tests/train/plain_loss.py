"""The set loss as the paper and VITA write it, sample by sample and layer by layer.

This is the definition. `SetCriterion` computes the same numbers in fewer and larger operations and
is tested against it; what that is worth stands in `train/MEASUREMENTS.md`.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from train.losses.criterion import SetCriterion, point_bce, point_dice
from train.losses.points import RandomPoints, uncertain_points
from train.masks.bilinear import sample
from train.masks.logits import MaskFeatures, mask_logits
from train.masks.targets import Targets


def plain_losses(
    loss: SetCriterion,
    layers: Sequence[tuple[Tensor, Tensor]],
    maps: Sequence[MaskFeatures],
    targets: Sequence[Targets],
    *,
    random: RandomPoints,
) -> dict[str, Tensor]:
    """Eq. (11), summed over decoder layers: ``loss_cls``, ``loss_mask`` and ``loss_dice``.

    Args:
        loss: the weights and numbers of points.
        layers: class logits (B, N) and mask embeddings (B, N, C) of each decoder layer.
        maps: B mask features.
        targets: B targets.
        random: source of random points.
    """
    # All layers of a sample are matched at the same points, which are the same in every frame.
    shared = [random([b], loss.num_points)[0] for b in range(len(targets))]  # (P, 2) each
    num_targets = max(1, sum(len(own.labels) for own in targets))
    cls = mask = dice = torch.zeros(())
    for logits, embeds in layers:
        meant = torch.zeros_like(logits)
        for b, (features, target) in enumerate(zip(maps, targets, strict=True)):
            if len(target.labels) == 0:
                continue
            masks = mask_logits(features.stored, embeds[b], codec=features.codec)  # (T, N, h, w)
            cost = loss.class_weight * -logits[b].sigmoid()[:, None] + pair_costs(
                at_points(masks.transpose(0, 1), shared[b]), true_at_points(target, shared[b]), loss
            )
            queries, own = map(torch.from_numpy, linear_sum_assignment(cost.detach().numpy()))
            meant[b, queries] = 1.0
            matched = masks.transpose(0, 1)[queries]  # (I, T, h, w)
            points = uncertain_points(
                matched.detach().flatten(0, 1),
                loss.num_points,
                random,
                samples=[b] * matched[:, :, 0, 0].numel(),
                oversample_ratio=loss.oversample_ratio,
                importance_ratio=loss.importance_ratio,
            ).unflatten(0, matched.shape[:2])  # (I, T, P, 2)
            predicted = at_points(matched, points)
            true = true_at_points(target, points, own)  # (I, T * P)
            mask = mask + point_bce(predicted, true).sum() / num_targets
            dice = dice + point_dice(predicted, true).sum() / num_targets
        weight = torch.where(meant > 0, 1.0, loss.classification.no_object_weight)
        wrong = F.binary_cross_entropy_with_logits(logits, meant, weight, reduction="sum")
        cls = cls + wrong / weight.sum()
    return {
        "loss_cls": loss.class_weight * cls,
        "loss_mask": loss.mask_weight * mask,
        "loss_dice": loss.dice_weight * dice,
    }


def at_points(maps: Tensor, points: Tensor) -> Tensor:
    """Values of maps (N, T, h, w) at points (P, 2) or (N, T, P, 2): (N, T * P)."""
    points = points.expand(*maps.shape[:2], -1, -1)
    return sample(maps.flatten(0, 1)[:, None], points.flatten(0, 1)).view(len(maps), -1)


def true_at_points(target: Targets, points: Tensor, which: Tensor | slice = slice(None)) -> Tensor:
    """Of some targets, which fill a part of the padded image only: (M, T * P)."""
    return at_points(target.masks[which].float(), points / torch.tensor(target.extent))


def pair_costs(predicted: Tensor, true: Tensor, loss: SetCriterion) -> Tensor:
    """Mask costs of all pairs at points, of predictions (N, P) and truth (M, P): (N, M)."""
    bce = F.softplus(-predicted) @ true.T + F.softplus(predicted) @ (1 - true).T
    inside = predicted.sigmoid()
    dice = 1 - (2 * inside @ true.T + 1) / (inside.sum(1)[:, None] + true.sum(1) + 1)
    return loss.mask_weight * bce / predicted.shape[1] + loss.dice_weight * dice
