"""The set loss: match predictions with targets, then classify and compare masks at points.

One layer at a time, and per layer the maps of all queries only for the matching, where no
gradient is kept; the loss computes the matched ones again. Memory then holds the matched maps
only, a few out of N.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from train.losses.classification import Binary, Matches, Softmax
from train.losses.matcher import assign, dice_cost, mask_cost
from train.losses.points import (
    RandomPoints,
    sample,
    sample_targets,
    uncertain_points,
    uniform_points,
)


class MaskMaps(Protocol):
    """Anything that turns mask embeddings into maps, such as `train.mask_logits.MaskFeatures`."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(T, h, w)."""

    def logits(self, embeds: Tensor) -> Tensor:
        """(N, C) to (N, T, h, w), differentiable."""

    def at(self, embeds: Tensor, points: Tensor) -> Tensor:
        """(N, C) to the values at points (1, P, 2) of every frame, (N, T * P)."""


@dataclass
class Targets:
    """The true masks of one video.

    Attributes:
        masks: (M, T, H, W) uint8 at original size; M may be 0.
        labels: (M,) int64 classes; zeros where there is one class only.
        extent: (x, y) fractions of the padded image that the image fills.
    """

    masks: Tensor
    labels: Tensor
    extent: tuple[float, float] = (1.0, 1.0)

    def to(self, device: torch.device | str) -> "Targets":
        """The same targets on another device."""
        return Targets(self.masks.to(device), self.labels.to(device), self.extent)


@dataclass
class SetCriterion:
    """Eq. (11), with the matching and the point sampling of Mask2Former and VITA.

    Attributes:
        classification: `Binary` for the head, `Softmax` for a segmenter.
        num_points: P, points a frame, for matching and for the loss.
        oversample_ratio: candidates per point of the loss.
        importance_ratio: share of the points taken where the prediction is least certain.
        class_weight: lambda_cls, in the loss and in the matching.
        mask_weight: of the binary cross-entropy.
        dice_weight: of the dice loss.
        prior_weight: of what is known about matches beforehand, in the matching only.
    """

    classification: Binary | Softmax
    num_points: int = 12544
    oversample_ratio: float = 3.0
    importance_ratio: float = 0.75
    class_weight: float = 2.0
    mask_weight: float = 5.0
    dice_weight: float = 5.0
    prior_weight: float = 0.0

    def __call__(
        self,
        layers: Sequence[tuple[Tensor, Tensor]],
        maps: Sequence[MaskMaps],
        targets: Sequence[Targets],
        *,
        prior: Sequence[Tensor] | None = None,
        random: RandomPoints | None = None,
    ) -> dict[str, Tensor]:
        """The weighted loss terms, summed over decoder layers (deep supervision).

        Args:
            layers: class logits (B, N) or (B, N, K + 1) and mask embeddings (B, N, C) of each
                decoder layer, the last one last.
            maps: the mask features of each of the B videos, of any size.
            targets: B targets.
            prior: B costs (N, M) of matching a query with a target, known beforehand.
            random: source of random points; torch's global generator by default.

        Returns:
            ``loss_cls``, ``loss_mask``, ``loss_dice``, each a scalar.

        Raises:
            Diverged: a prediction is not finite.
        """
        return self.with_matches(layers, maps, targets, prior=prior, random=random)[0]

    def with_matches(
        self,
        layers: Sequence[tuple[Tensor, Tensor]],
        maps: Sequence[MaskMaps],
        targets: Sequence[Targets],
        *,
        prior: Sequence[Tensor] | None = None,
        random: RandomPoints | None = None,
    ) -> tuple[dict[str, Tensor], Matches]:
        """What `__call__` gives, and the matches of the last layer."""
        random = random or uniform_points(layers[-1][0].device)
        terms: dict[str, list[Tensor]] = defaultdict(list)
        for logits, embeds in layers:
            matches = self.match(logits, embeds, maps, targets, prior=prior, random=random)
            for name, value in self.losses(
                logits, embeds, maps, targets, matches=matches, random=random
            ).items():
                terms[name].append(value)
        weights = {"cls": self.class_weight, "mask": self.mask_weight, "dice": self.dice_weight}
        losses = {f"loss_{name}": weights[name] * sum(values) for name, values in terms.items()}
        return losses, matches

    @torch.no_grad()
    def match(
        self,
        logits: Tensor,
        embeds: Tensor,
        maps: Sequence[MaskMaps],
        targets: Sequence[Targets],
        *,
        prior: Sequence[Tensor] | None = None,
        random: RandomPoints,
    ) -> Matches:
        """Match the queries of one layer with the targets; see `__call__`.

        All masks of a video are compared at one shared set of points, in every frame.
        """
        points = random(len(targets), self.num_points)  # (B, P, 2)
        costs = [
            self.cost(
                logits[b], maps[b].at(embeds[b], points[b : b + 1]), own, points=points[b : b + 1]
            )
            for b, own in enumerate(targets)
        ]
        if prior is not None:
            costs = [
                cost + self.prior_weight * known for cost, known in zip(costs, prior, strict=True)
            ]
        # One transfer for the whole batch: on a GPU each would wait for the device.
        flat = torch.cat([cost.flatten() for cost in costs]).cpu()
        parts = flat.split([cost.numel() for cost in costs])
        return [
            assign(part.view(cost.shape).numpy()) for part, cost in zip(parts, costs, strict=True)
        ]

    def cost(
        self, logits: Tensor, at_points: Tensor, targets: Targets, *, points: Tensor
    ) -> Tensor:
        """Matching cost of one video.

        Args:
            logits: (N,) or (N, K + 1).
            at_points: mask logits at the points, (N, T * P).
            targets: M targets.
            points: (1, P, 2).

        Returns:
            (N, M).
        """
        if len(targets.labels) == 0:
            return at_points.new_zeros(len(at_points), 0)
        truth = sample_targets(
            targets.masks.flatten(0, 1), points, points.new_tensor([[targets.extent]])
        ).view(len(targets.masks), at_points.shape[1])  # (M, T * P)
        return (
            self.class_weight * self.classification.cost(logits, targets.labels)
            + self.mask_weight * mask_cost(at_points, truth)
            + self.dice_weight * dice_cost(at_points, truth)
        )

    def losses(
        self,
        logits: Tensor,
        embeds: Tensor,
        maps: Sequence[MaskMaps],
        targets: Sequence[Targets],
        *,
        matches: Matches,
        random: RandomPoints,
    ) -> dict[str, Tensor]:
        """The unweighted terms ``cls``, ``mask`` and ``dice`` of one layer; see `__call__`.

        The mask terms are sums over matched targets, divided by the number of all targets.
        """
        num_targets = max(sum(len(own.labels) for own in targets), 1)
        labels = [own.labels for own in targets]
        # Zero where nothing matches, but a zero that reaches the parameters.
        mask = dice = embeds.sum() * 0.0
        for predicted, truth in self._point_pairs(embeds, maps, targets, matches, random):
            mask = mask + point_bce(predicted, truth)
            dice = dice + point_dice(predicted, truth)
        return {
            "cls": self.classification.loss(logits, labels, matches),
            "mask": mask / num_targets,
            "dice": dice / num_targets,
        }

    def _point_pairs(
        self,
        embeds: Tensor,
        maps: Sequence[MaskMaps],
        targets: Sequence[Targets],
        matches: Matches,
        random: RandomPoints,
    ) -> list[tuple[Tensor, Tensor]]:
        """Logits and truth (M', T * P) of matched instances, one pair per size of video."""
        groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for b, (queries, _) in enumerate(matches):
            if len(queries):
                groups[(*maps[b].shape, *targets[b].masks.shape[2:])].append(b)
        pairs = []
        for (frames, *_), videos in groups.items():
            predicted, truth, extents = [], [], []
            for b in videos:
                queries, own = (index.to(embeds.device) for index in matches[b])
                predicted.append(maps[b].logits(embeds[b][queries]))  # (M', T, h, w)
                truth.append(targets[b].masks[own])  # (M', T, H, W)
                extents += [targets[b].extent] * (len(own) * frames)
            rows = torch.cat(predicted).flatten(0, 1)  # (R = M' * T, h, w)
            points = uncertain_points(
                rows.detach(),
                self.num_points,
                random,
                oversample_ratio=self.oversample_ratio,
                importance_ratio=self.importance_ratio,
            )  # (R, P, 2)
            true_rows = torch.cat(truth).flatten(0, 1)  # (R, H, W)
            extent = points.new_tensor(extents)[:, None]  # (R, 1, 2)
            wide = (-1, frames * self.num_points)
            pairs.append(
                (
                    sample(rows, points).view(wide),
                    sample_targets(true_rows, points, extent).view(wide),
                )
            )
        return pairs


def point_bce(logits: Tensor, truth: Tensor) -> Tensor:
    """Binary cross-entropy, mean over points, sum over instances: (M, P), (M, P) to ()."""
    return F.binary_cross_entropy_with_logits(logits, truth, reduction="none").mean(dim=1).sum()


def point_dice(logits: Tensor, truth: Tensor) -> Tensor:
    """Dice loss with smoothing 1, sum over instances: (M, P), (M, P) to ()."""
    predictions = logits.sigmoid()
    overlap = 2.0 * (predictions * truth).sum(dim=1)
    total = predictions.sum(dim=1) + truth.sum(dim=1)
    return (1.0 - (overlap + 1.0) / (total + 1.0)).sum()
