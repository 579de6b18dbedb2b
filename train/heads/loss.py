"""What a head is trained with: the seam, and the set loss that heads have by default."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar, Protocol

from torch import Tensor

from train.losses import Binary, SetCriterion
from train.losses.points import RandomPoints

if TYPE_CHECKING:
    from train.data import Batch
    from train.heads.base import HeadOutput


class Criterion(Protocol):
    """A head's loss. The keyword-only arguments of its constructor are the config's ``loss`` keys.

    Attributes:
        reads: what it needs beside what the head reads, see `Batch`: "mask_features" (the true
            masks are painted only then), "distances", "overlaps".
    """

    reads: ClassVar[tuple[str, ...]]

    def terms(
        self,
        outputs: Sequence[HeadOutput],
        batch: Batch,
        *,
        random: RandomPoints,
        average: Callable[[Tensor], Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """The weighted terms, scalars by names that begin with ``loss``.

        Args:
            outputs: of the head, one a decoder layer, float32.
            batch: what it was said of.
            random: source of random points, see `train.losses.points`.
            average: gives the mean of counts over processes; what a term is divided by goes
                through it, so that several processes take the step that one would.
        """


class HeadCriterion(SetCriterion):
    """Eq. (11) for one logit a query: "meant by the sentence" or not.

    Args:
        no_object_weight: weight of the queries that match nothing in the class term's mean.
        weights: of `SetCriterion`.
    """

    reads = ("mask_features", "distances")
    RANGES: ClassVar = {
        "num_points": (1, 1e7),
        "oversample_ratio": (1, 1000),
        "importance_ratio": (0, 1),
    }

    def __init__(self, *, no_object_weight: float = 0.1, **weights: float) -> None:
        super().__init__(Binary(no_object_weight), **weights)

    def terms(
        self,
        outputs: Sequence[HeadOutput],
        batch: Batch,
        *,
        random: RandomPoints,
        average: Callable[[Tensor], Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """See `Criterion.terms`."""
        return self.compare(
            [(output.logits, output.mask_embeds) for output in outputs],
            batch.supervision,
            prior=self.prior(outputs, batch),
            random=random,
            average=average,
        )[0]

    def prior(self, outputs: Sequence[HeadOutput], batch: Batch) -> list[Tensor] | None:
        """Of each sample what is known of matches beforehand, (N_m, M)."""
        sources = outputs[-1].sources
        if sources is None or not self.prior_weight:
            return None
        return [distance[own] for distance, own in zip(batch.distances, sources, strict=True)]
