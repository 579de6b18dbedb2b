"""What predictions are compared with, and the costs of pairs: made once a batch, for all heads.

Samples whose maps have one size are put side by side, so that one operation serves them all; on a
CPU only small ones with masks of one size, for large ones fill its caches alone. Samples without
targets are left out: they have nothing to be matched with.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass, fields
from functools import reduce
from operator import add
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from train.masks.bilinear import sample
from train.masks.logits import MaskFeatures
from train.masks.stack import SMALL, MaskStack
from train.masks.tables import MaskTables, parts_of
from train.masks.targets import Targets, TargetStack
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


AT_ONCE = {True: 2**21, False: 2**24}
"""Logits of one sample at points that the layers handled together have at most: on a CPU as many
as its cache holds, elsewhere enough to make few launches."""


class Match(NamedTuple):
    """Which queries of a sample have which targets, on the CPU or where the batch is.

    Attributes:
        queries: (I,) int64, ascending.
        targets: (I,) int64.
        weights: (I,) float32, how much each counts; None where all count alike.
    """

    queries: Tensor
    targets: Tensor
    weights: Tensor | None = None


Matches = list[Match]
"""Of each sample."""


@dataclass
class Group:
    """G samples whose maps have one size.

    Attributes:
        samples: their numbers in the batch; those of several heads follow each other, see
            `Supervision.repeated`.
        features: their mask features.
        targets: their targets.
    """

    samples: list[int]
    features: MaskStack
    targets: TargetStack

    def pair_sums(self, embeds: Tensor, points: Tensor) -> PairSums:
        """All masks of a sample against each other, at points that are the same in every frame.

        Args:
            embeds: (G, N, C).
            points: (G, P, 2).
        """
        true = self.targets.shared(points)  # (G, T, P, M)
        blocks = self.features.read(embeds, points)
        return reduce(
            add, (PairSums.of(*_side_by_side(own, true[:, t, p])) for t, p, own in blocks)
        )

    def pairs(
        self,
        embeds: Tensor,
        matches: Sequence[Matches],
        num_points: int,
        choose: Callable[[Tensor, list[int]], Tensor],
    ) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
        """Logits and truth of the matched instances at points of their own, for layers at once.

        Args:
            embeds: (B, L, N, C), of the whole batch.
            num_points: P.
            choose: map logits (R, h, w) and the sample of each to points (R, P, 2).

        Yields:
            (I, T * P) both, and how much each instance counts for each head, (heads, I); None
            where all count alike for one head.
        """
        layers, frames = embeds.shape[1], self.targets.frames
        heads = len(self.samples) // self.features.num_clips
        batch = len(embeds) // heads
        found = [len(matches[0][b].queries) for b in self.samples]  # of a sample and layer
        if not any(found):
            return
        queries, targets = self._matched(embeds, matches)
        # One product a clip for all layers, so that the features are read once, and once more for
        # the gradients.
        all_maps = self.features.logits(
            embeds.flatten(0, 2)[queries], [count * layers for count in found]
        )
        # How many others share the batch must not change in which order a sample's random numbers
        # are drawn: layers are handled together by the sizes of one sample.
        limit = AT_ONCE[on_cpu(embeds)] // (embeds.shape[2] * frames * num_points)
        step = max(1, limit)
        widths = [min(step, layers - first) for first in range(0, layers, step)]
        sizes = [count * width for count in found for width in widths]
        split = [targets.split(sizes), all_maps.split(sizes)]  # sample by sample, part by part
        for number, width in enumerate(widths):
            own, maps = (joined(pieces[number :: len(widths)]) for pieces in split)
            maps = maps.flatten(0, 1)  # (I * T, h, w)
            samples = np.repeat(self.samples, np.array(found) * width)
            points = choose(maps.detach(), np.repeat(samples, frames).tolist())  # (I * T, P, 2)
            true = self.targets.own(own, points.unflatten(0, (-1, frames)))
            share = None
            if heads > 1 or matches[0][samples[0]].weights is not None:
                share = np.float32(samples // batch == np.arange(heads)[:, None])
                weights = [matches[0][b].weights for b in self.samples]
                if weights[0] is not None:  # the same in every layer
                    share *= np.concatenate([np.tile(own, width) for own in weights])
                share = torch.from_numpy(share).to(maps.device, non_blocking=True)
            yield sample(maps[:, None], points).view(len(true), -1), true.flatten(1), share

    def _matched(self, embeds: Tensor, matches: Sequence[Matches]) -> Tensor:
        """The I matched instances in all layers, sample by sample and layer by layer.

        Returns:
            (2, I) int64: place of the query in the embeddings (B * L * N, C), and number of the
            target among those of the group.
        """
        _, L, N, _ = embeds.shape
        found, firsts = [], []
        for b, first in zip(self.samples, self.targets.firsts, strict=True):
            for layer in range(L):
                found.append(matches[layer][b])
                firsts.append(((b * L + layer) * N, first))
        both = torch.stack([torch.cat([match[i] for match in found]) for i in (0, 1)])
        starts = np.repeat(np.array(firsts).T, [len(match.queries) for match in found], axis=1)
        starts = torch.from_numpy(starts)
        return both.to(embeds.device, non_blocking=True) + starts.to(
            embeds.device, non_blocking=True
        )


def _side_by_side(predicted: Tensor, true: Tensor) -> tuple[Tensor, Tensor]:
    """(G, T, P, N) and (G, T, P, M) as (G, T * P, N) and (G, T * P, M).

    A sum over points and frames has no order: what varies fastest in memory comes last.
    """
    if predicted.stride(1) < predicted.stride(2):
        predicted, true = predicted.transpose(1, 2), true.transpose(1, 2)
    return predicted.flatten(1, 2), true.flatten(1, 2)


def joined(tensors: Sequence[Tensor]) -> Tensor:
    """`torch.cat`, but one tensor is not copied."""
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors)


class Supervision:
    """The mask features and the targets of a batch.

    Args:
        features: of each of the B samples, of any size.
        targets: of each sample.

    Attributes:
        groups: the samples that have targets, by size.
        labels: of each sample.
        num_targets: of all samples.
        heads: that are compared together.
    """

    def __init__(self, features: Sequence[MaskFeatures], targets: Sequence[Targets]) -> None:
        self.heads = 1
        self.labels = [own.labels for own in targets]
        self.num_targets = sum(len(labels) for labels in self.labels)
        alike: dict[tuple, list[int]] = defaultdict(list)
        for b, (maps, own) in enumerate(zip(features, targets, strict=True)):
            if len(own.labels):
                values, key = maps.stored["values"], (id(maps.codec), *maps.shape)
                if on_cpu(values):
                    key += (*own.masks.shape[2:], b if values.numel() > SMALL else None)
                alike[key].append(b)
        self.groups = []
        for samples in alike.values():
            clips = [features[b] for b in samples]
            kind = MaskStack if on_cpu(clips[0].stored["values"]) else MaskTables
            self.groups.append(
                Group(samples, kind(clips), TargetStack([targets[b] for b in samples]))
            )

    def repeated(self, heads: int) -> "Supervision":
        """The same for several heads at once; sample b of head k is number k * B + b."""
        other, batch = copy(self), len(self.labels)
        other.heads = heads
        other.groups = [
            Group(
                [k * batch + b for b in group.samples for k in range(heads)],
                group.features.repeated(heads),
                group.targets.repeated(heads),
            )
            for group in self.groups
        ]
        return other
