"""The set loss: match predictions with targets, then classify and compare masks at points.

`tests/train/plain_loss.py` is its definition. Here samples of one size and all layers go together,
and how logits and truth at points are had is the part of `train.masks`. The maps of all queries are
needed for the matching only, where no gradient is kept; the loss computes the few matched ones
again.
"""

from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from train import kernels
from train.losses.assignment import assign, check_finite
from train.losses.points import RandomPoints, uncertain_points, uniform_points
from train.masks.supervision import Group, Match, Matches, Supervision


def _matched(layers: Sequence[Matches]) -> tuple[Tensor, Tensor, Tensor]:
    """Layer, sample and query of every match, layer by layer and sample by sample."""
    queries = [match.queries for matches in layers for match in matches]
    rows = np.repeat(np.arange(len(queries)), [len(own) for own in queries])
    found = torch.cat(queries)
    places = torch.from_numpy(np.stack(divmod(rows, len(layers[0]))))
    return (*places.to(found.device, non_blocking=True), found)


@dataclass
class Softmax:
    """K classes and "no object", as VITA is trained.

    Attributes:
        num_classes: K.
        no_object_weight: weight of the last class in the mean.
    """

    num_classes: int
    no_object_weight: float = 0.1

    def cost(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Logits (G, L, N, K + 1) and labels (G, M) to the matching cost (G, L, N, M)."""
        G, L, N, _ = logits.shape
        return -logits.softmax(dim=-1).gather(3, labels[:, None, None].expand(G, L, N, -1))

    def losses(
        self, logits: Tensor, labels: Sequence[Tensor], matches: Sequence[Matches]
    ) -> tuple[Tensor, Tensor]:
        """The loss of each query times its weight, and the weight.

        Args:
            logits: (L, B, N, K + 1).
            labels: of each sample, (M,).

        Returns:
            (L, B, N) both; the sum of one divided by that of the other is the weighted mean.
        """
        classes = torch.full(logits.shape[:3], self.num_classes)
        classes[_matched(matches)] = torch.cat(
            [
                own.cpu()[match.targets]
                for layer in matches
                for own, match in zip(labels, layer, strict=True)
            ]
        )
        classes = classes.to(logits.device, non_blocking=True)
        weight = logits.new_ones(self.num_classes + 1)
        weight[-1] = self.no_object_weight
        loss = F.cross_entropy(logits.flatten(0, 2), classes.flatten(), weight, reduction="none")
        return loss.view(classes.shape), weight[classes]


@dataclass
class Binary:
    """Meant by the sentence or not: one logit a query, Eq. (9).

    Attributes:
        no_object_weight: weight of the queries that match nothing in the mean.
    """

    no_object_weight: float = 0.1

    def cost(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Logits (G, L, N) and labels (G, M), whose values do not matter, to (G, L, N, M)."""
        return -logits.sigmoid()[..., None].expand(-1, -1, -1, labels.shape[1])

    def losses(
        self, logits: Tensor, labels: Sequence[Tensor], matches: Sequence[Matches]
    ) -> tuple[Tensor, Tensor]:
        """As `Softmax.losses`, with logits (L, B, N); matches may have weights."""
        where = _matched(matches)
        meant = torch.zeros(logits.shape, device=where[-1].device)
        meant.index_put_(where, meant.new_ones(()))
        meant = meant.to(logits.device, non_blocking=True)
        own: Tensor | float = 1.0
        if matches[0][0].weights is not None:
            own = torch.zeros(logits.shape)
            own[where] = torch.cat([match.weights for layer in matches for match in layer])
            own = own.to(logits.device, non_blocking=True)
        weight = torch.where(meant > 0, own, self.no_object_weight)
        loss = F.binary_cross_entropy_with_logits(logits, meant, weight, reduction="none")
        return loss, weight


Average = Callable[[Tensor], Tensor]
"""Counts (n,) of this process to their mean over all processes."""


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
        class_term: the class term's mean over all queries of the batch, "mean"; or "per_sample",
            the mean over samples of the mean over queries, as LMPM, DsHmp and VITA have it, who
            train with one sample a GPU.
    """

    RANGES: ClassVar = {
        "num_points": (1, 1e7),
        "oversample_ratio": (1, 1000),
        "importance_ratio": (0, 1),
    }
    CHOICES: ClassVar = {"class_term": ("mean", "per_sample")}
    #: Whether matches may stay on a GPU, which then need not be waited for.
    stays: ClassVar = False

    classification: Binary | Softmax
    _: KW_ONLY
    num_points: int = 12544
    oversample_ratio: float = 3.0
    importance_ratio: float = 0.75
    class_weight: float = 2.0
    mask_weight: float = 5.0
    dice_weight: float = 5.0
    class_term: str = "mean"

    def compare(
        self,
        layers: Sequence[tuple[Tensor, Tensor]],
        truth: Supervision,
        *,
        matches: Matches | None = None,
        random: RandomPoints | None = None,
        average: Average | None = None,
    ) -> tuple[dict[str, Tensor], Matches]:
        """The weighted loss terms, summed over decoder layers (deep supervision).

        Args:
            layers: class logits (B, N) or (B, N, K + 1) and mask embeddings (B, N, C) of each
                decoder layer, the last one last.
            truth: what to compare with; several heads may share it.
            matches: known beforehand, of every layer; else they are searched.
            random: source of random points; torch's global generator by default.
            average: where several processes hold a part of the batch each and their gradients are
                averaged: gives the mean of counts over processes, so that every process divides by
                the whole batch's. It is called once, whatever the number of layers.

        Returns:
            ``loss_cls``, ``loss_mask``, ``loss_dice``, each a scalar, or (heads,) for a `truth` of
            several, and the matches of the last layer.

        Raises:
            Diverged: a prediction is not finite.
        """
        device = layers[-1][0].device
        random = random or uniform_points(device)
        with torch.autocast(device.type, enabled=False):
            logits = torch.stack([own.float() for own, _ in layers])  # (L, B, N) or with K + 1
            embeds = torch.stack([own.float() for _, own in layers], dim=1)  # (B, L, N, C)
            every = (
                self.match(logits, embeds, truth, random=random)
                if matches is None
                else [matches] * len(layers)
            )
            losses = self.losses(
                logits, embeds, truth, matches=every, random=random, average=average
            )
        weights = {"cls": self.class_weight, "mask": self.mask_weight, "dice": self.dice_weight}
        return {f"loss_{name}": weights[name] * term for name, term in losses.items()}, every[-1]

    @torch.no_grad()
    def match(
        self, logits: Tensor, embeds: Tensor, truth: Supervision, *, random: RandomPoints
    ) -> list[Matches]:
        """The matches of each layer, of logits (L, B, N) or (L, B, N, K + 1) and embeddings
        (B, L, N, C); see `compare`.
        """
        costs = [self.costs(logits, embeds, group, random) for group in truth.groups]
        if self.stays and kernels.available(logits.device):
            return _stay(costs, truth.groups, *logits.shape[:2])
        matches = unmatched(*logits.shape[:2])
        if not costs:
            return matches
        # One transfer for the whole batch: on a GPU each would wait for the device.
        flat = torch.cat([cost.flatten() for cost in costs]).cpu()
        check_finite(flat.numpy())
        parts = flat.split([cost.numel() for cost in costs])
        for part, cost, group in zip(parts, costs, truth.groups, strict=True):
            tables = part.view(cost.shape).numpy()
            for table, b, count in zip(tables, group.samples, group.targets.counts, strict=True):
                for layer, own in enumerate(table[..., :count]):
                    matches[layer][b] = assign(own)
        return matches

    def costs(self, logits: Tensor, embeds: Tensor, group: Group, random: RandomPoints) -> Tensor:
        """Matching costs of the samples of one size.

        All masks of a sample are compared at one shared set of points, in every layer and frame.

        Args:
            logits: (L, B, N) or (L, B, N, K + 1), of the whole batch.
            embeds: (B, L, N, C), of the whole batch.
            group: G samples of it.

        Returns:
            (G, L, N, largest M).
        """
        costs = self.class_weight * self.classification.cost(
            logits[:, group.samples].transpose(0, 1), group.targets.labels
        )
        points = random(group.samples, self.num_points)  # (G, P, 2)
        sums = group.pair_sums(embeds[group.samples].flatten(1, 2), points)
        pairs = self.mask_weight * sums.mask_cost() + self.dice_weight * sums.dice_cost()
        return costs + pairs.view(costs.shape)

    def losses(
        self,
        logits: Tensor,
        embeds: Tensor,
        truth: Supervision,
        *,
        matches: Sequence[Matches],
        random: RandomPoints,
        average: Average | None = None,
    ) -> dict[str, Tensor]:
        """The unweighted terms ``cls``, ``mask`` and ``dice``, summed over layers; see `match`.

        Each is a scalar, or where several heads are compared together (heads,).

        Each layer's class term is a mean over queries, see `class_term`; its mask terms are sums
        over matched targets, divided by the number of all targets. Matches that have weights count
        by them in all three, and the mask terms are divided by their sum.
        """
        heads, batch = truth.heads, len(truth.labels)
        if heads > 1:  # a layer of each head counts alone
            logits = logits.unflatten(1, (heads, batch)).flatten(0, 1)
            starts = range(0, heads * batch, batch)
            class_matches = [layer[start : start + batch] for layer in matches for start in starts]
        else:
            class_matches = matches
        classes, weights = class_sums(
            *self.classification.losses(logits, truth.labels, class_matches), self.class_term
        )  # (L * heads,) both
        instances = weights.new_full((heads,), truth.num_targets)
        if matches[0][0].weights is not None:
            own = torch.stack([match.weights.sum() for match in matches[0]])
            own = own.view(heads, batch).sum(dim=1)
            instances = own.to(weights.device, non_blocking=True)
        counts = torch.cat([weights, instances])
        if average is not None:
            counts = average(counts)
        # Without any target there is nothing to divide either.
        counts = torch.where(counts > 0, counts, 1.0)
        classes, instances = (classes / counts[:-heads]).unflatten(0, (-1, heads)), counts[-heads:]

        def choose(maps: Tensor, samples: list[int]) -> Tensor:
            return uncertain_points(
                maps,
                self.num_points,
                random,
                samples=samples,
                oversample_ratio=self.oversample_ratio,
                importance_ratio=self.importance_ratio,
            )

        # Zero where nothing matches, but a zero that reaches the parameters.
        mask = dice = embeds.reshape(heads, -1).sum(dim=1) * 0.0
        for group in truth.groups:
            for predicted, true, share in group.pairs(embeds, matches, self.num_points, choose):
                mask = mask + _summed(point_bce(predicted, true), share)
                dice = dice + _summed(point_dice(predicted, true), share)
        terms = {"cls": classes.sum(dim=0), "mask": mask / instances, "dice": dice / instances}
        return {name: own.squeeze(0) if heads == 1 else own for name, own in terms.items()}


def unmatched(layers: int, samples: int, device: torch.device | str = "cpu") -> list[list[Match]]:
    """No match of any sample in any layer."""
    none = torch.zeros(0, dtype=torch.int64, device=device)
    return [[Match(none, none)] * samples for _ in range(layers)]


def _stay(
    costs: Sequence[Tensor], groups: Sequence[Group], layers: int, samples: int
) -> list[Matches]:
    """Matches by cost that never leave the device, of L layers and B samples."""
    matches = unmatched(layers, samples, costs[0].device if costs else "cpu")
    for cost, group in zip(costs, groups, strict=True):
        counts = group.targets.counts
        found = kernels.assign_all(cost, counts)
        for own, b, count in zip(found, group.samples, counts, strict=True):
            pairs = own[..., :count].flatten(0, 1).unbind()
            for layer in range(layers):
                matches[layer][b] = Match(*pairs[2 * layer : 2 * layer + 2])
    return matches


def class_sums(losses: Tensor, weights: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    """Sums whose quotient is the class term of each layer, see `SetCriterion.class_term`.

    Args:
        losses: (L, B, N), of each query times its weight.
        weights: (L, B, N).
        kind: "mean" or "per_sample".

    Returns:
        (L,) and (L,).
    """
    if kind == "mean":
        return losses.sum(dim=(1, 2)), weights.sum(dim=(1, 2))
    own = weights.sum(dim=2)  # (L, B)
    means = losses.sum(dim=2) / torch.where(own > 0, own, 1.0)
    return means.sum(dim=1), torch.full_like(own[:, 0], own.shape[1])


def _summed(values: Tensor, share: Tensor | None) -> Tensor:
    """Sum over instances (I,): of all, (), or of each head's by its share, (heads, I) to (heads,).

    What one head has that is no number does not reach the others.
    """
    if share is None:
        return values.sum()
    if len(share) == 1:
        return share @ values
    return torch.where(share > 0, share * values, 0.0).sum(dim=1)


def point_bce(logits: Tensor, truth: Tensor) -> Tensor:
    """Binary cross-entropy, mean over points: (I, P), (I, P) to (I,)."""
    return F.binary_cross_entropy_with_logits(logits, truth, reduction="none").mean(dim=1)


def point_dice(logits: Tensor, truth: Tensor) -> Tensor:
    """Dice loss with smoothing 1: (I, P), (I, P) to (I,)."""
    predictions = logits.sigmoid()
    overlap = 2.0 * (predictions * truth).sum(dim=1)
    total = predictions.sum(dim=1) + truth.sum(dim=1)
    return 1.0 - (overlap + 1.0) / (total + 1.0)
