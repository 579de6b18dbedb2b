"""What a head is trained with: the seam, and the set loss that heads which draw have by default."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import torch
from torch import Tensor

from cache_schema.host.cli import InputError
from train.losses.assignment import by_overlap, own_matches, own_overlaps
from train.losses.criterion import Average, Binary, SetCriterion
from train.losses.points import RandomPoints
from train.masks.supervision import joined

if TYPE_CHECKING:
    from train.data import Batch
    from train.heads import HeadOutput


class Criterion(Protocol):
    """A head's loss. The keyword-only arguments of its constructor are the config's ``loss`` keys.

    Where it is a module, too, its buffers are part of the checkpoint.

    Attributes:
        reads: what it needs beside what the head reads, fields of `HeadInputs` or of `Batch`:
            "mask_features" (the true masks are painted only then), "overlaps" (none where a cache
            of the run does not hold them).
    """

    reads: ClassVar[tuple[str, ...]]

    def terms(
        self,
        outputs: Sequence[HeadOutput],
        batch: Batch,
        *,
        random: RandomPoints,
        average: Average | None = None,
    ) -> dict[str, Tensor]:
        """The weighted terms, scalars by names that begin with ``loss``; others are for the log.

        Args:
            outputs: of the head, one a decoder layer, float32.
            random: source of random points, see `train.losses.points`.
            average: gives the mean of counts over processes; what a term is divided by goes
                through it, so that several processes take the step that one would.
        """


class HeadCriterion(SetCriterion):
    """Eq. (11) for one logit a query: "meant by the sentence" or not.

    Args:
        no_object_weight: weight of the queries that match nothing in the class term's mean.
        assignment: "hungarian", one query a target, the cheapest; or "overlap", every query whose
            own mask is the target's, each weighted by its objectness. Then nothing is searched, and
            masks are compared with that target.
        overlap_threshold: of "overlap", see `train.losses.assignment.owners`.
        weights: of `SetCriterion`.
    """

    reads = ("mask_features", "overlaps", "video_logits")
    RANGES: ClassVar = {"overlap_threshold": (0.01, 1)}
    CHOICES: ClassVar = {"assignment": ("hungarian", "overlap")}
    stays = True

    def __init__(
        self,
        *,
        no_object_weight: float = 0.1,
        assignment: str = "hungarian",
        overlap_threshold: float = 0.5,
        **weights: Any,
    ) -> None:
        super().__init__(Binary(no_object_weight), **weights)
        self.assignment, self.overlap_threshold = assignment, overlap_threshold

    def terms(
        self,
        outputs: Sequence[HeadOutput],
        batch: Batch,
        *,
        random: RandomPoints,
        average: Average | None = None,
    ) -> dict[str, Tensor]:
        """See `Criterion.terms`; ``own_matches`` is `train.losses.assignment.own_matches`."""
        return self.terms_of([outputs], batch, random=random, average=average)

    def terms_of(
        self,
        heads: Sequence[Sequence[HeadOutput]],
        batch: Batch,
        *,
        random: RandomPoints,
        average: Average | None = None,
    ) -> dict[str, Tensor]:
        """The same for several heads at once whose outputs have one shape, each term (heads,)."""
        count = len(heads)
        layers = [
            (joined([own.logits for own in layer]), joined([own.mask_embeds for own in layer]))
            for layer in zip(*heads, strict=True)
        ]
        sources = [outputs[-1].sources for outputs in heads]
        starts = None if sources[0] is None else joined(sources)  # (heads * B, N_m)
        own = own_overlaps(batch.overlaps * count, starts)  # (heads * B, N_m, M)
        matches = None
        if self.assignment == "overlap":
            if own is None:
                raise InputError(
                    f"config key loss.assignment is 'overlap', and {missing(starts)}, or set "
                    "loss.assignment='hungarian'"
                )
            weights = objectness(batch.inputs.video_logits).repeat(count, 1).gather(1, starts)
            matches = by_overlap(own, weights, self.overlap_threshold)
        truth = batch.supervision if count == 1 else batch.supervision.repeated(count)
        losses, found = self.compare(layers, truth, matches=matches, random=random, average=average)
        if matches is None and own is not None:
            size = len(found) // count
            shares = [
                own_matches(part, found[k * size : (k + 1) * size])
                for k, part in enumerate(own.chunk(count))
            ]
            losses["own_matches"] = shares[0] if count == 1 else torch.stack(shares)
        return losses


def missing(sources: Tensor | None) -> str:
    """Why there are no overlaps of the motion queries with the targets, and what to do."""
    if sources is None:
        return (
            "the head's motion queries did not start as video queries, whose own masks could "
            "overlap a target; set model.initialisation='video'"
        )
    return (
        "a cache does not hold how much its video queries overlap the objects (format version 3 "
        "does); extract it again"
    )


def objectness(video_logits: Tensor) -> Tensor:
    """Probability (B, N_v) of being any object at all, from logits (B, N_v, K+1)."""
    return 1.0 - video_logits.softmax(dim=-1)[..., -1]
