"""The contrastive memory of DsHmp: one vector an expression, compared with those of the others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from mmengine.dist import all_gather
from torch import Tensor, nn
from torch.nn import functional

from cache_schema.host.cli import InputError
from train.losses.criterion import Average
from train.losses.points import RandomPoints
from train.losses.vita import SimilarityCriterion
from train.masks.supervision import Matches

if TYPE_CHECKING:
    from train.data import Batch
    from train.heads import HeadOutput

CONTRAST_DIM = 256  # channels of a vector in the memory
KEEP = 0.1  # of the old vector, when a new one comes
COMPARED = 100  # vectors that one is compared with


class ContrastiveCriterion(SimilarityCriterion, nn.Module):
    """`SimilarityCriterion` with a contrastive term, whose memory is part of the checkpoint.

    An expression's vector is the mean of "contrast" (B, N_m, `CONTRAST_DIM`) of the head's ``more``
    over the matched queries. Sentences of one video that mean the same objects should have alike
    ones, others not. It is compared with what the memory holds: the reference starts it with random
    numbers, here expressions that training has not met yet do not take part.

    Args:
        similarity_weight: see `SimilarityCriterion`.
        contrast_weight: of the contrastive term.
        contrast_warmup: iterations over which it grows to that.
        memory_size: the most expressions that the caches may have; by default MeViS's.
        weights: of `SimilarityCriterion`.
    """

    reads = (*SimilarityCriterion.reads, "ids")
    RANGES: ClassVar = {"contrast_warmup": (1, 1e9), "memory_size": (1, 1e7)}
    __hash__ = nn.Module.__hash__

    def __init__(
        self,
        *,
        similarity_weight: float = 1.0,
        contrast_weight: float = 0.3,
        contrast_warmup: int = 2000,
        memory_size: int = 23051,
        **weights: Any,
    ) -> None:
        nn.Module.__init__(self)
        super().__init__(similarity_weight=similarity_weight, **weights)
        self.contrast_weight, self.contrast_warmup = contrast_weight, contrast_warmup
        self.register_buffer("memory", torch.zeros(memory_size, CONTRAST_DIM))
        # Of each expression, see `Batch.ids`: objects and video; -1 for one that was not met yet.
        self.register_buffer("meant", torch.full((memory_size, 2), -1))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def terms(
        self,
        outputs: Sequence[HeadOutput],
        batch: Batch,
        *,
        random: RandomPoints,
        average: Average | None = None,
    ) -> dict[str, Tensor]:
        """See `Criterion.terms`; ``loss_contrast`` is the contrastive term.

        Raises:
            InputError: the memory is too small.
        """
        losses, matches = self.matched_terms(outputs, batch, random=random, average=average)
        loss = self.contrast(
            outputs[-1].more["contrast"], matches, batch.ids, random=random, average=average
        )
        ramp = (self.steps / self.contrast_warmup).clamp(max=1.0)
        losses["loss_contrast"] = self.contrast_weight * ramp * loss
        self.steps += 1
        return losses

    def contrast(
        self,
        embeds: Tensor,
        matches: Matches,
        ids: Sequence[Tensor],
        *,
        random: RandomPoints,
        average: Average | None = None,
    ) -> Tensor:
        """The mean over the expressions of a batch that mean something; the memory takes them in.

        Args:
            embeds: (B, N_m, `CONTRAST_DIM`).
            ids: see `Batch.ids`.
            random: source of random numbers, of which each sample has its own.
            average: see `SetCriterion.compare`.
        """
        known = torch.stack(list(ids))  # (B, 4)
        some = [b for b, match in enumerate(matches) if len(match.queries)]
        shares = torch.zeros(embeds.shape[:2])
        for b in some:
            shares[b, matches[b].queries] = 1.0 / len(matches[b].queries)
        shares = shares.to(embeds.device, non_blocking=True)
        vectors = torch.einsum("bn,bnc->bc", shares, embeds)  # (B, C)
        self.update(known, vectors.detach(), shares.any(dim=1))
        # Drawn for every sample, so that its numbers are those that it has in any batch.
        draws = random(range(len(known)), -(-len(self.memory) // 2)).flatten(1)
        count = embeds.new_tensor([len(some)])
        if average is not None:
            count = average(count)
        if not some:
            return embeds.sum() * 0.0
        positive, negative = self.choose(known[some], draws[some, : len(self.memory)])
        loss = contrastive_losses(vectors[some], self.memory, positive, negative)
        return loss.sum() / count[0]

    @torch.no_grad()
    def update(self, ids: Tensor, vectors: Tensor, valid: Tensor) -> None:
        """Take vectors (B, C) in, one after the other, those of all processes; ids (B, 4)."""
        parts = [all_gather(own) for own in (ids, vectors, valid.long())]
        ids, vectors, valid = (torch.cat(own) for own in parts)
        if (most := int(ids[0, 3])) > len(self.memory):
            raise InputError(
                f"config key loss.memory_size is {len(self.memory)}, but the caches hold {most} "
                f"expressions, each of which has a place in the memory; set it to {most}"
            )
        for own, vector, takes_part in zip(ids, vectors, valid, strict=True):
            place, new = own[:1], takes_part > 0
            old, known = self.memory[place], self.meant[place]
            mixed = torch.where(known[:, :1] < 0, vector, KEEP * old + (1.0 - KEEP) * vector)
            self.memory[place] = torch.where(new, mixed, old)
            self.meant[place] = torch.where(new, own[1:3], known)

    def choose(self, ids: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
        """Which vectors of the memory are like those of some expressions, and which are not.

        Other sentences of the video come before those of other videos, up to `COMPARED` with the
        positive ones; which, if there are more, is drawn.

        Args:
            ids: (B, 4).
            draws: uniform numbers (B, memory_size).

        Returns:
            (B, memory_size) bool both.
        """
        objects, videos = self.meant.T
        positive = objects == ids[:, 1, None]  # (B, S)
        order = draws + (videos == ids[:, 2, None])
        order = order.masked_fill(positive | (objects < 0), -1.0)
        best, places = order.topk(min(COMPARED, order.shape[1]), dim=1)
        ranks = torch.arange(best.shape[1], device=best.device)
        taken = (best >= 0) & (ranks < COMPARED - positive.sum(dim=1, keepdim=True))
        return positive, torch.zeros_like(positive).scatter(1, places, taken)


def contrastive_losses(
    vectors: Tensor, memory: Tensor, positive: Tensor, negative: Tensor
) -> Tensor:
    """Twice the cross-entropy of several positives, plus the mean square error of the cosine.

    In the cross-entropy's denominator all positives together count as one vector.

    Args:
        vectors: (B, C).
        memory: (S, C).
        positive, negative: (B, S) bool, which to compare with; at least one positive each.

    Returns:
        (B,).
    """
    same, other = positive.float(), negative.float()
    count = same.sum(dim=1, keepdim=True)  # (B, 1)
    logits = vectors @ memory.T  # (B, S)
    total = (logits + (same / count + other).log()).logsumexp(dim=1)
    entropy = total - (logits * same).sum(dim=1) / count[:, 0]
    cosine = functional.normalize(vectors, dim=1) @ functional.normalize(memory, dim=1).T
    chosen = same + other
    error = ((cosine - same).square() * chosen).sum(dim=1) / chosen.sum(dim=1)
    return 2.0 * entropy + error
