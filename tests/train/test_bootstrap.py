"""The paired bootstrap: what its interval must and must not depend on."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cache_schema.host.cli import InputError
from train.sweeping import bootstrap
from train.sweeping.bootstrap import Difference, compare, mean_of_seeds, paired_bootstrap

SCORES = st.lists(st.floats(0, 1), min_size=1, max_size=40).map(np.array)


@given(SCORES)
def test_identical_scores_do_not_differ(scores: np.ndarray) -> None:
    assert paired_bootstrap(scores, scores, resamples=200) == Difference(0.0, 0.0, 0.0)


@given(SCORES, st.floats(-0.5, 0.5))
def test_a_shift_of_all_is_certain(scores: np.ndarray, shift: float) -> None:
    found = paired_bootstrap(scores + shift, scores, resamples=200)
    assert (found.mean, found.low, found.high) == pytest.approx((shift,) * 3, abs=1e-12)


@given(st.integers(0, 1000), st.integers(2, 60))
@example(170, 3)  # of which all draws that are one number have a mean above it, by rounding
def test_the_interval_lies_around_the_mean_and_turns_with_the_sides(seed: int, count: int) -> None:
    a, b = np.random.default_rng(seed).random((2, count))
    found, turned = (paired_bootstrap(*pair, resamples=500) for pair in ((a, b), (b, a)))
    assert found.low <= found.mean <= found.high
    assert found.mean == pytest.approx((a - b).mean())
    assert (turned.mean, -turned.high, -turned.low) == pytest.approx(
        (-found.mean, found.low, found.high)
    )
    assert (a - b).min() <= found.low and found.high <= (a - b).max()


def test_the_interval_is_that_of_the_normal_distribution_for_many_expressions() -> None:
    rng = np.random.default_rng(0)
    a, noise = rng.random(400), rng.normal(0.02, 0.1, 400)
    found = paired_bootstrap(a + noise, a)
    half = 1.96 * noise.std() / np.sqrt(400)
    assert found.low == pytest.approx(noise.mean() - half, abs=0.1 * half)
    assert found.high == pytest.approx(noise.mean() + half, abs=0.1 * half)


def test_one_seed_gives_one_interval_however_much_is_drawn_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    a, b = np.random.default_rng(1).random((2, 30))
    found = paired_bootstrap(a, b, seed=3)
    assert paired_bootstrap(a, b, seed=4) != found
    monkeypatch.setattr(bootstrap, "DRAWN", 7 * 30)
    assert paired_bootstrap(a, b, seed=3) == found


@pytest.mark.parametrize("shapes", [(3, 4), (0, 0)])
def test_scores_that_are_no_pairs_are_refused(shapes: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="scores of shapes"):
        paired_bootstrap(*map(np.zeros, shapes))


def _metrics(**scores: float) -> dict:
    return {"per_expression": {key: {"J&F": score} for key, score in scores.items()}}


def test_seeds_are_averaged_first_and_expressions_found_by_name() -> None:
    seeds = [_metrics(a=0.2, b=0.6), _metrics(b=1.0, a=0.4)]
    assert mean_of_seeds(seeds) == pytest.approx({"a": 0.3, "b": 0.8})
    found = compare(seeds, [_metrics(b=0.7, a=0.2)])
    assert (found.mean, found.low, found.high) == pytest.approx((0.1, 0.1, 0.1))


def test_other_expressions_are_refused() -> None:
    with pytest.raises(InputError, match="seeds of one variant"):
        mean_of_seeds([_metrics(a=1.0), _metrics(b=1.0)])
    with pytest.raises(InputError, match="a variant and the reference"):
        compare([_metrics(a=1.0)], [_metrics(a=1.0, b=1.0)])
