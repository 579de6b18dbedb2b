"""The set loss with the similarity of embeddings: what LMPM is trained with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from train.losses.assignment import assign, check_finite
from train.losses.classification import Binary
from train.losses.criterion import Average, SetCriterion
from train.losses.points import RandomPoints
from train.losses.vita import Similarity, similarity_loss
from train.masks.supervision import Match, Matches
from train.masks.targets import Targets

if TYPE_CHECKING:
    from train.data import Batch
    from train.heads import HeadOutput


class SimilarityCriterion(SetCriterion):
    """Eq. (11), and embeddings of frame queries and motion queries that agree on one object.

    The head gives both in ``more``: "frame_embeds" (B, T, N_f, C), "query_embeds" (B, N_m, C).

    Args:
        no_object_weight: weight of the queries that match nothing in the class term's mean.
        similarity_weight: of `similarity_loss`.
        weights: of `SetCriterion`.
    """

    reads = ("mask_features",)
    RANGES: ClassVar = {
        "num_points": (1, 1e7),
        "oversample_ratio": (1, 1000),
        "importance_ratio": (0, 1),
    }
    CHOICES: ClassVar = {"class_term": ("mean", "per_sample")}

    def __init__(
        self, *, no_object_weight: float = 0.1, similarity_weight: float = 0.5, **weights: Any
    ) -> None:
        super().__init__(Binary(no_object_weight), **weights)
        self.similarity_weight = similarity_weight

    def terms(
        self,
        outputs: Sequence[HeadOutput],
        batch: Batch,
        *,
        random: RandomPoints,
        average: Average | None = None,
    ) -> dict[str, Tensor]:
        """See `Criterion.terms`; ``loss_sim`` is the similarity."""
        return self.matched_terms(outputs, batch, random=random, average=average)[0]

    def matched_terms(
        self,
        outputs: Sequence[HeadOutput],
        batch: Batch,
        *,
        random: RandomPoints,
        average: Average | None,
    ) -> tuple[dict[str, Tensor], Matches]:
        """The terms, and the matches of the last layer."""
        layers = [(output.logits, output.mask_embeds) for output in outputs]
        losses, matches = self.compare(layers, batch.supervision, random=random, average=average)
        frames, queries = (outputs[-1].more[name] for name in ("frame_embeds", "query_embeds"))
        ids = [torch.arange(len(own.labels)) for own in batch.targets]
        similarity = Similarity(
            frames,
            frame_matches(frames, queries, matches, visible_targets(batch.targets)),
            [own for own in ids for _ in range(frames.shape[1])],
            queries,
            ids,
        )
        loss = similarity_loss(similarity, matches, average)
        losses["loss_sim"] = self.similarity_weight * loss
        return losses, matches


@torch.no_grad()
def frame_matches(
    frames: Tensor, queries: Tensor, matches: Matches, visible: Sequence[np.ndarray]
) -> Matches:
    """Which frame query of each frame shows which target.

    LMPM knows it from the frame queries' own masks, which no cache holds. Here it is the one whose
    embedding is most like that of the target's motion query, each for one target at most.

    Args:
        frames: (B, T, N_f, C).
        queries: (B, N_m, C).
        matches: of the motion queries, B of them.
        visible: of each sample (M, T') bool, T' of its own frames.

    Returns:
        B * T of them, with the targets that are visible in that frame.
    """
    likeness = torch.einsum("btfc,bnc->btfn", frames, queries).float().cpu().numpy()
    check_finite(likeness)
    found = []
    for own, match, seen in zip(likeness, matches, visible, strict=True):
        own, seen = own[..., match.queries.numpy()], seen[match.targets.numpy()]
        for t, frame in enumerate(own):  # (N_f, I)
            there = np.flatnonzero(seen[:, t] if t < seen.shape[1] else [])
            best = assign(-frame[:, there])
            found.append(Match(best.queries, match.targets[there[best.targets.numpy()]]))
    return found


def visible_targets(targets: Sequence[Targets]) -> list[np.ndarray]:
    """In which frames each target has a pixel, (M, T) bool of each sample."""
    every = [own.masks.amax(dim=(2, 3)) > 0 for own in targets]
    # One transfer for the whole batch: on a GPU each would wait for the device.
    flat = torch.cat([own.flatten() for own in every]).cpu()
    parts = flat.split([own.numel() for own in every])
    return [part.view(own.shape).numpy() for part, own in zip(parts, every, strict=True)]
