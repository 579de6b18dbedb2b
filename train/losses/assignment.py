"""Which query answers for which target: by cost, one to one, or by overlap, many to one."""

from collections.abc import Sequence

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from cache_schema.host.cli import InputError
from train.masks.supervision import Match, Matches

#: The IoU with a target that its best query has to have to be its own.
LEAST = 0.2


class Diverged(InputError):
    """Training left the finite numbers; the message says where and what to try."""


def check_finite(costs: np.ndarray) -> None:
    """Raise `Diverged` unless all matching costs are numbers."""
    if not np.isfinite(costs).all():
        raise Diverged(
            "the predictions are no longer finite numbers (a matching cost is NaN or infinite); "
            "lower optimizer.lr, or check the cached features for infinite values"
        )


def assign(cost: np.ndarray) -> Match:
    """The cheapest one-to-one assignment (Hungarian).

    Args:
        cost: (N, M), finite.

    Returns:
        min(N, M) matches.
    """
    predictions, targets = linear_sum_assignment(cost)
    return Match(torch.from_numpy(predictions), torch.from_numpy(targets))


def own_overlaps(overlaps: Sequence[Tensor], sources: Tensor | None) -> Tensor | None:
    """How much of each target each motion query's own mask covers.

    Args:
        overlaps: IoU of the video queries with the targets of each sample, (N_v, M_b); empty where
            a cache does not hold it.
        sources: (B, N_m), the video query that each motion query is; None where there is none.

    Returns:
        (B, N_m, largest M) float32, zero for targets that a sample does not have; None where it is
        not known.
    """
    if sources is None or not overlaps:
        return None
    rows = [own.float().T for own in overlaps]  # (M_b, N_v)
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)  # (B, M, N_v)
    places = sources[:, None].expand(-1, padded.shape[1], -1)
    return padded.gather(2, places).mT


def owners(own: Tensor, threshold: float) -> Tensor:
    """Whether a query's own mask is a target's: it covers enough of it, or most of all queries.

    A segmenter finds one object several times. A one-to-one assignment would teach that all but one
    of these queries are wrong. And where it finds an object badly, the best query is all there is.

    Args:
        own: `own_overlaps`, (B, N_m, M).
        threshold: the IoU that is enough.

    Returns:
        (B, N_m, M) bool.
    """
    best = (own == own.amax(dim=1, keepdim=True)) & (own >= min(LEAST, threshold))
    return (own >= threshold) | best


def by_overlap(own: Tensor, weights: Tensor, threshold: float) -> Matches:
    """Every query whose own mask is a target's, weighted; nothing is searched.

    Args:
        own: `own_overlaps`, (B, N_m, M).
        weights: (B, N_m), of each query.
        threshold: see `owners`.

    Returns:
        Of each sample; a query has the target that it overlaps most.
    """
    if own.shape[2] == 0:
        own = own.new_zeros(*own.shape[:2], 1)
    # One transfer for the whole batch: on a GPU each would wait for the device.
    best, targets = (own * owners(own, threshold)).max(dim=2)
    best, targets, weights = torch.stack([best, targets.float(), weights]).cpu()
    found = []
    for row in range(len(best)):
        (queries,) = torch.nonzero(best[row], as_tuple=True)
        found.append(Match(queries, targets[row, queries].long(), weights[row, queries]))
    return found


def own_matches(own: Tensor, matches: Matches) -> Tensor:
    """The share of targets that are matched with the query whose own mask is the target's.

    At the beginning it says whether training can work at all: near 1 / N_m, matches are arbitrary.

    Args:
        own: `own_overlaps`, (B, N_m, M).
        matches: one to one, of each sample.

    Returns:
        (), over the targets that some query's own mask touches; NaN where there is none.
    """
    counts = [len(match.queries) for match in matches]
    rows = torch.from_numpy(np.repeat(np.arange(len(counts)), counts))
    queries, targets = (torch.cat([match[i] for match in matches]) for i in (0, 1))
    places = [each.to(own.device, non_blocking=True) for each in (rows, queries, targets)]
    best = own.amax(dim=1)[places[0], places[2]]
    right = (own[tuple(places)] == best) & (best > 0)
    return right.sum() / (best > 0).sum()
