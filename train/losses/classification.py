"""The classification term of the set loss, once for many classes and once for yes or no."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

Matches = list[tuple[Tensor, Tensor]]
"""Per video: prediction indices and target indices, int64, on the CPU."""


def _flat_matches(matches: Matches) -> tuple[Tensor, Tensor]:
    rows = torch.cat([torch.full_like(queries, b) for b, (queries, _) in enumerate(matches)])
    return rows, torch.cat([queries for queries, _ in matches])


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
        """Logits (N, K + 1) and labels (M,) to the matching cost (N, M)."""
        return -logits.softmax(dim=-1)[:, labels]

    def loss(self, logits: Tensor, labels: list[Tensor], matches: Matches) -> Tensor:
        """Logits (B, N, K + 1) and the labels of each video to the weighted mean, ()."""
        classes = torch.full(logits.shape[:2], self.num_classes)
        classes[_flat_matches(matches)] = torch.cat(
            [own.cpu()[targets] for own, (_, targets) in zip(labels, matches, strict=True)]
        )
        weight = logits.new_ones(self.num_classes + 1)
        weight[-1] = self.no_object_weight
        return F.cross_entropy(logits.flatten(0, 1), classes.flatten().to(logits.device), weight)


@dataclass
class Binary:
    """Meant by the sentence or not: one logit a query, Eq. (9).

    Attributes:
        no_object_weight: weight of the queries that match nothing in the mean.
    """

    no_object_weight: float = 0.1

    def cost(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Logits (N,) and labels (M,), whose values do not matter, to the cost (N, M)."""
        return -logits.sigmoid()[:, None].expand(-1, len(labels))

    def loss(self, logits: Tensor, labels: list[Tensor], matches: Matches) -> Tensor:
        """Logits (B, N) to the weighted mean over all queries of the batch, ()."""
        meant = torch.zeros(logits.shape)
        meant[_flat_matches(matches)] = 1.0
        weight = torch.where(meant > 0, 1.0, self.no_object_weight).to(logits.device)
        loss = F.binary_cross_entropy_with_logits(
            logits, meant.to(logits.device), weight, reduction="sum"
        )
        return loss / weight.sum()
