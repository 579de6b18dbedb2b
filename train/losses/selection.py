"""What a head is trained with that draws no masks: it says which of the segmenter's are meant."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from cache_schema.host.cli import InputError
from train.losses.assignment import own_overlaps, owners
from train.losses.criterion import Average, class_sums
from train.losses.head import missing, objectness
from train.losses.points import RandomPoints

if TYPE_CHECKING:
    from train.data import Batch
    from train.heads import HeadOutput


class SelectionCriterion:
    """Weighted binary cross-entropy of "its own mask is a target's", Eq. (9) without Eq. (10).

    A query that is meant counts by its objectness, one that is not counts whole, for replay goes by
    the scores alone: what is no object has to learn to stay low. Nothing is matched and no mask is
    read.

    Args:
        overlap_threshold: of `train.losses.assignment.owners`.
        margin_weight: of the softplus margin of 1 that each query meant keeps, within a sample,
            from each that is not: its look-alikes. 0 leaves it out.
        class_term: see `SetCriterion`.
    """

    reads = ("overlaps", "video_logits")
    RANGES: ClassVar = {"overlap_threshold": (0.01, 1)}
    CHOICES: ClassVar = {"class_term": ("mean", "per_sample")}

    def __init__(
        self,
        *,
        overlap_threshold: float = 0.5,
        margin_weight: float = 0.0,
        class_term: str = "mean",
    ) -> None:
        self.overlap_threshold, self.margin_weight = overlap_threshold, margin_weight
        self.class_term = class_term

    def terms(
        self,
        outputs: Sequence[HeadOutput],
        batch: Batch,
        *,
        random: RandomPoints | None = None,
        average: Average | None = None,
    ) -> dict[str, Tensor]:
        """``loss_cls`` and, if it has a weight, ``loss_margin``; see `Criterion.terms`."""
        sources = outputs[-1].sources
        own = own_overlaps(batch.overlaps, sources)  # (B, N_m, M)
        if own is None:
            raise InputError(f"the head learns from overlaps, and {missing(sources)}")
        logits = torch.stack([output.logits.float() for output in outputs])  # (L, B, N_m)
        meant = owners(own, self.overlap_threshold).any(dim=2).float()  # (B, N_m)
        scores = objectness(batch.inputs.video_logits).gather(1, sources)
        weight = torch.where(meant > 0, scores, 1.0)
        losses = weight * F.binary_cross_entropy_with_logits(
            logits, meant.expand_as(logits), reduction="none"
        )
        sums, counts = class_sums(losses, weight.expand_as(logits), self.class_term)  # (L,) both
        # How much each pair of a query that is meant and one that is not counts, (B, N_m, N_m): its
        # look-alikes are objects.
        pairs = (scores * meant)[:, :, None] * (scores * (1.0 - meant))[:, None]
        counts = torch.cat([counts, pairs.sum()[None]])
        if average is not None:
            counts = average(counts)
        counts = torch.where(counts > 0, counts, 1.0)
        terms = {"loss_cls": (sums / counts[:-1]).sum()}
        if self.margin_weight:
            ahead = logits[..., None] - logits[..., None, :]  # (L, B, N_m, N_m)
            margin = (F.softplus(1.0 - ahead) * pairs).sum() / counts[-1]
            terms["loss_margin"] = self.margin_weight * margin
        return terms
