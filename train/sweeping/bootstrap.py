"""How sure a difference between two heads is, given which expressions happened to be asked.

Paired bootstrap (Efron and Tibshirani, "An Introduction to the Bootstrap", 1993): expressions are
drawn with replacement, each with the scores of both heads. The interval says how much the mean
difference would change with other expressions of the same kind. It does *not* contain the spread
over seeds, which stands beside it in a sweep's table, and it takes the expressions of one video for
independent, so it is rather too narrow.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cache_schema.host.cli import InputError

RESAMPLES = 10_000
LEVEL = 0.95  # share of the resamples inside an interval
DRAWN = 1 << 22  # numbers drawn at a time, so that memory does not grow with the expressions


@dataclass(frozen=True)
class Difference:
    """A mean difference and its percentile interval."""

    mean: float
    low: float
    high: float


def paired_bootstrap(
    scores: np.ndarray,
    reference: np.ndarray,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Difference:
    """The mean of ``scores - reference`` and its interval.

    Args:
        scores, reference: (E,) of the same expressions in the same order.
        resamples: how often E expressions are drawn.
        seed: one seed, one interval; with the same E the same expressions are drawn.

    Raises:
        ValueError: the shapes differ, or there are no expressions.
    """
    if scores.shape != reference.shape or scores.ndim != 1 or not len(scores):
        raise ValueError(f"scores of shapes {scores.shape} and {reference.shape}, not one (E,)")
    differences = np.asarray(scores, np.float64) - reference
    rng, rows = np.random.default_rng(seed), max(1, DRAWN // len(differences))
    means = np.concatenate(
        [
            differences[rng.integers(len(differences), size=(count, len(differences)))].mean(1)
            for count in (min(rows, resamples - start) for start in range(0, resamples, rows))
        ]
    )
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    # Rounding may take a mean past the numbers that it is of.
    found = np.clip([differences.mean(), low, high], differences.min(), differences.max())
    return Difference(*found.tolist())


def mean_of_seeds(metrics: Sequence[Mapping]) -> dict[str, float]:
    """J&F of each expression, averaged over the seeds of one head.

    Args:
        metrics: the content of metrics.json of each seed.

    Raises:
        InputError: the seeds were not scored on the same expressions.
    """
    seeds = [entry["per_expression"] for entry in metrics]
    _check_same(seeds, "the seeds of one variant")
    return {key: float(np.mean([scores[key]["J&F"] for scores in seeds])) for key in seeds[0]}


def compare(metrics: Sequence[Mapping], reference: Sequence[Mapping]) -> Difference:
    """Mean J&F of a head less that of the reference, over the seeds of each.

    Args:
        metrics, reference: the content of metrics.json of each seed.

    Raises:
        InputError: they were not scored on the same expressions.
    """
    own, other = mean_of_seeds(metrics), mean_of_seeds(reference)
    _check_same([own, other], "a variant and the reference")
    pairs = np.array([(own[key], other[key]) for key in sorted(own)])
    return paired_bootstrap(pairs[:, 0], pairs[:, 1])


def _check_same(scores: Sequence[Mapping], what: str) -> None:
    if any(set(other) != set(scores[0]) for other in scores):
        raise InputError(
            f"{what} were scored on different expressions; evaluate all of them on one cache"
        )
