"""The classification term of the set loss, once for many classes and once for yes or no."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from train.masks.supervision import Matches


def _matched(layers: Sequence[Matches]) -> tuple[Tensor, Tensor, Tensor]:
    """Layer, sample and query of every match, layer by layer and sample by sample."""
    queries = [match.queries for matches in layers for match in matches]
    rows = np.repeat(np.arange(len(queries)), [len(own) for own in queries])
    layer, sample = map(torch.from_numpy, divmod(rows, len(layers[0])))
    return layer, sample, torch.cat(queries)


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
            matches: of each layer.

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
        meant = torch.zeros(logits.shape)
        meant[where] = 1.0
        meant = meant.to(logits.device, non_blocking=True)
        own: Tensor | float = 1.0
        if matches[0][0].weights is not None:
            own = torch.zeros(logits.shape)
            own[where] = torch.cat([match.weights for layer in matches for match in layer])
            own = own.to(logits.device, non_blocking=True)
        weight = torch.where(meant > 0, own, self.no_object_weight)
        loss = F.binary_cross_entropy_with_logits(logits, meant, weight, reduction="none")
        return loss, weight
