"""The set loss: match predictions with targets, then classify and compare masks at points.

The maps of all queries are needed only for the matching, where no gradient is kept; the loss
computes the matched ones again. Memory then holds the matched maps only, a few out of N. Matching
takes all layers together; so does the loss where points are few, and where they are many one layer
follows the other.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass
from functools import reduce
from operator import add

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from train.bilinear import sample
from train.losses.classification import Binary, Matches, Softmax
from train.losses.matcher import PairSums, assign, check_finite
from train.losses.points import RandomPoints, uncertain_points, uniform_points
from train.losses.supervision import Group, Supervision, Targets
from train.mask_logits import MaskFeatures
from train.memory import on_cpu

AT_ONCE = {True: 2**21, False: 2**24}
"""Logits of one sample at points that the layers handled together have at most: on a CPU as many
as its cache holds, elsewhere enough to make few launches."""

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
        prior_weight: of what is known about matches beforehand, in the matching only.
    """

    classification: Binary | Softmax
    _: KW_ONLY
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
        maps: Sequence[MaskFeatures],
        targets: Sequence[Targets],
        *,
        prior: Sequence[Tensor] | None = None,
        random: RandomPoints | None = None,
        average: Average | None = None,
    ) -> dict[str, Tensor]:
        """The loss terms that `compare` gives, for a batch that is used once.

        Args:
            maps: the mask features of each of the B samples, of any size.
            targets: B targets.
        """
        truth = Supervision(maps, targets)
        return self.compare(layers, truth, prior=prior, random=random, average=average)[0]

    def compare(
        self,
        layers: Sequence[tuple[Tensor, Tensor]],
        truth: Supervision,
        *,
        prior: Sequence[Tensor] | None = None,
        random: RandomPoints | None = None,
        average: Average | None = None,
    ) -> tuple[dict[str, Tensor], Matches]:
        """The weighted loss terms, summed over decoder layers (deep supervision).

        Args:
            layers: class logits (B, N) or (B, N, K + 1) and mask embeddings (B, N, C) of each
                decoder layer, the last one last.
            truth: what to compare with; several heads may share it.
            prior: B costs (N, M) of matching a query with a target, known beforehand.
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
            matches = self.match(logits, embeds, truth, prior=prior, random=random)
            losses = self.losses(
                logits, embeds, truth, matches=matches, random=random, average=average
            )
        weights = {"cls": self.class_weight, "mask": self.mask_weight, "dice": self.dice_weight}
        return {f"loss_{name}": weights[name] * term for name, term in losses.items()}, matches[-1]

    @torch.no_grad()
    def match(
        self,
        logits: Tensor,
        embeds: Tensor,
        truth: Supervision,
        *,
        prior: Sequence[Tensor] | None = None,
        random: RandomPoints,
    ) -> list[Matches]:
        """Match the queries of each layer with the targets; see `compare`.

        Args:
            logits: (L, B, N) or (L, B, N, K + 1).
            embeds: (B, L, N, C).
            truth: B targets.
            prior: as for `compare`.
            random: as for `compare`.

        Returns:
            The matches of each layer.
        """
        none = torch.zeros(0, dtype=torch.int64)
        matches: list[Matches] = [[(none, none)] * logits.shape[1] for _ in logits]
        costs = [self.costs(logits, embeds, group, random) for group in truth.groups]
        if prior is not None:
            for cost, group in zip(costs, truth.groups, strict=True):
                for own, b in zip(cost, group.samples, strict=True):  # (L, N, M)
                    own[..., : prior[b].shape[1]] += self.prior_weight * prior[b]
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
        """Matching costs of the samples of one size, without the prior.

        All masks of a sample are compared at one shared set of points, in every layer and frame.

        Args:
            logits: (L, B, N) or (L, B, N, K + 1), of the whole batch.
            embeds: (B, L, N, C), of the whole batch.
            group: G samples of it.
            random: source of random points.

        Returns:
            (G, L, N, largest M).
        """
        costs = self.class_weight * self.classification.cost(
            logits[:, group.samples].transpose(0, 1), group.targets.labels
        )
        queries = embeds[group.samples].flatten(1, 2)  # (G, L * N, C)
        points = random(group.samples, self.num_points)  # (G, P, 2)
        true = group.targets.shared(points)  # (G, T, P, M)
        pair_sums = PairSums.of if on_cpu(queries) else PairSums.in_parts
        blocks = (
            pair_sums(*_side_by_side(predicted, true[:, frames, block]))
            for frames, block, predicted in group.features.read(queries, points)
        )
        sums = reduce(add, blocks)
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

        Each layer's class term is a weighted mean over all queries; its mask terms are sums over
        matched targets, divided by the number of all targets.
        """
        heads, batch = truth.heads, len(truth.labels)
        if heads > 1:  # a layer of each head counts alone
            logits = logits.unflatten(1, (heads, batch)).flatten(0, 1)
            starts = range(0, heads * batch, batch)
            class_matches = [layer[start : start + batch] for layer in matches for start in starts]
        else:
            class_matches = matches
        # (L * heads,), (L * heads,)
        classes, weights = self.classification.sums(logits, truth.labels, class_matches)
        counts = torch.cat([weights, weights.new_full((1,), truth.num_targets)])
        if average is not None:
            counts = average(counts)
        # Without any target there is nothing to divide either.
        num_targets = torch.where(counts[-1] > 0, counts[-1], 1.0)
        # Zero where nothing matches, but a zero that reaches the parameters.
        mask = dice = embeds.sum() * 0.0
        for group in truth.groups:
            for predicted, true, share in self._point_pairs(embeds, group, matches, random):
                mask = mask + _summed(point_bce(predicted, true), share)
                dice = dice + _summed(point_dice(predicted, true), share)
        classes = classes / counts[:-1]
        return {
            "cls": classes.sum() if heads == 1 else classes.unflatten(0, (-1, heads)).sum(dim=0),
            "mask": mask / num_targets,
            "dice": dice / num_targets,
        }

    def _parts(self, embeds: Tensor, group: Group) -> Iterator[slice]:
        """Layers handled together, by the sizes of one sample: how many others share the batch
        must not change in which order a sample's random numbers are drawn."""
        _, layers, queries, _ = embeds.shape
        limit = AT_ONCE[embeds.device.type == "cpu"]
        step = max(1, limit // (queries * group.targets.frames * self.num_points))
        return (slice(start, start + step) for start in range(0, layers, step))

    def _point_pairs(
        self, embeds: Tensor, group: Group, matches: Sequence[Matches], random: RandomPoints
    ) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
        """Logits and truth (I, T * P) of the matched instances, for layers at once.

        And of which of several heads each is: (heads, I) of zeros and ones, None for one head.
        """
        layers, frames = embeds.shape[1], group.targets.frames
        heads = len(group.samples) // group.features.num_clips
        batch = len(embeds) // heads
        found = [len(matches[0][b][0]) for b in group.samples]  # instances of a sample and layer
        queries, targets = _matched(embeds, group, matches)
        # One product a clip for all layers, so that the features are read once, and once more for
        # the gradients.
        all_maps = group.features.logits(
            embeds.flatten(0, 2)[queries], [count * layers for count in found]
        )
        widths = [len(range(layers)[part]) for part in self._parts(embeds, group)]
        sizes = [count * width for count in found for width in widths]
        split = [targets.split(sizes), all_maps.split(sizes)]  # sample by sample, part by part
        for number, width in enumerate(widths):
            samples = np.repeat(group.samples, np.array(found) * width * frames).tolist()
            own, maps = (_joined(pieces[number :: len(widths)]) for pieces in split)
            maps = maps.flatten(0, 1)  # (I * T, h, w)
            points = uncertain_points(
                maps.detach(),
                self.num_points,
                random,
                samples=samples,
                oversample_ratio=self.oversample_ratio,
                importance_ratio=self.importance_ratio,
            )  # (I * T, P, 2)
            true = group.targets.own(own, points.unflatten(0, (-1, frames)))
            share = None
            if heads > 1:
                instances = np.repeat(group.samples, np.array(found) * width) // batch
                share = np.float32(instances == np.arange(heads)[:, None])
                share = torch.from_numpy(share).to(maps.device, non_blocking=True)
            yield sample(maps[:, None], points).view(len(true), -1), true.flatten(1), share


def _side_by_side(predicted: Tensor, true: Tensor) -> tuple[Tensor, Tensor]:
    """(G, T, P, N) and (G, T, P, M) as (G, T * P, N) and (G, T * P, M).

    A sum over points and frames has no order: what varies fastest in memory comes last.
    """
    if predicted.stride(1) < predicted.stride(2):
        predicted, true = predicted.transpose(1, 2), true.transpose(1, 2)
    return predicted.flatten(1, 2), true.flatten(1, 2)


def _joined(tensors: Sequence[Tensor]) -> Tensor:
    """`torch.cat`, but one tensor is not copied."""
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors)


def _matched(embeds: Tensor, group: Group, matches: Sequence[Matches]) -> Tensor:
    """The I matched instances of a group in all layers, sample by sample and layer by layer.

    Returns:
        (2, I) int64: place of the query in the embeddings (B * L * N, C), and number of the target
        among those of the group.
    """
    _, L, N, _ = embeds.shape
    places, numbers = [], []
    for b, first in zip(group.samples, group.targets.firsts, strict=True):
        for layer in range(L):
            queries, targets = matches[layer][b]
            places.append(queries.numpy() + (b * L + layer) * N)
            numbers.append(targets.numpy() + first)
    both = np.stack([np.concatenate(places), np.concatenate(numbers)])
    return torch.from_numpy(both).to(embeds.device, non_blocking=True)


def _summed(values: Tensor, share: Tensor | None) -> Tensor:
    """Sum over instances (I,): of all, or of each head's by its share (heads, I)."""
    return values.sum() if share is None else share @ values


def point_bce(logits: Tensor, truth: Tensor) -> Tensor:
    """Binary cross-entropy, mean over points: (I, P), (I, P) to (I,)."""
    return F.binary_cross_entropy_with_logits(logits, truth, reduction="none").mean(dim=1)


def point_dice(logits: Tensor, truth: Tensor) -> Tensor:
    """Dice loss with smoothing 1: (I, P), (I, P) to (I,)."""
    predictions = logits.sigmoid()
    overlap = 2.0 * (predictions * truth).sum(dim=1)
    total = predictions.sum(dim=1) + truth.sum(dim=1)
    return 1.0 - (overlap + 1.0) / (total + 1.0)
