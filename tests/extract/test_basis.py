"""The basis of a low-rank codec: exact at full rank, cheapest for masks, the same every time."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extract.codecs.fitting import RIDGE, fit_basis

C = 12


def moments(seed):
    """Mean, covariance and metric of features and embeddings that look elsewhere."""
    rng = np.random.default_rng(seed)
    features, embeds = (
        rng.standard_normal((200, C)) * rng.permutation(np.geomspace(0.1, 10, C)) for _ in range(2)
    )
    turned = features @ np.linalg.qr(rng.standard_normal((C, C)))[0]
    return 3 * rng.standard_normal(C), np.cov(turned.T, bias=True), embeds.T @ embeds / 200


def error(basis, covariance, metric):
    """E|e.dF|^2 of what the basis leaves of features."""
    left = np.eye(C) - basis.encoder.astype(np.float64) @ basis.decoder
    return np.trace(metric @ left.T @ covariance @ left)


@pytest.mark.parametrize("metric", [np.eye(C), np.diag(np.arange(C)), moments(0)[2]])
def test_full_rank_is_exact(metric):
    mean, covariance, _ = moments(1)
    basis = fit_basis(mean, covariance, metric, C)
    assert {a.dtype for a in (basis.mean, basis.encoder, basis.decoder)} == {np.dtype(np.float32)}
    assert (basis.mean.shape, basis.encoder.shape, basis.rank) == ((C,), (C, C), C)
    np.testing.assert_allclose(basis.encoder @ basis.decoder, np.eye(C), atol=1e-4)


@given(st.integers(0, 10_000), st.integers(1, C - 1))
def test_no_basis_of_that_rank_is_better_for_the_masks(seed, rank):
    mean, covariance, metric = moments(seed)
    weighted = error(fit_basis(mean, covariance, metric, rank), covariance, metric)
    plain = fit_basis(mean, covariance, np.eye(C), rank)
    # What the ridge can cost, and float32.
    allowance = RIDGE * np.trace(metric) / C * error(plain, covariance, np.eye(C)) + 1e-4
    assert weighted <= error(plain, covariance, metric) + allowance


def test_directions_that_no_embedding_looks_at_are_left_out():
    covariance, metric = np.diag([100.0, 1, 1, 0.5]), np.diag([0.0, 1, 1, 9])
    weighted = fit_basis(np.zeros(4), covariance, metric, 3)
    plain = fit_basis(np.zeros(4), covariance, np.eye(4), 3)
    np.testing.assert_allclose(weighted.encoder[0], 0, atol=1e-6)
    np.testing.assert_allclose(plain.encoder[3], 0, atol=1e-6)


@given(st.integers(0, 10_000))
def test_a_fit_is_deterministic_and_ranks_are_prefixes(seed):
    first, again = fit_basis(*moments(seed), C), fit_basis(*moments(seed), C)
    assert first.sha256 == again.sha256
    part = fit_basis(*moments(seed), 3)
    assert np.array_equal(part.encoder, first.encoder[:, :3])
    assert np.array_equal(part.decoder, first.decoder[:3])


def test_the_sign_of_a_direction_is_fixed():
    """Eigenvectors are determined up to their sign, which differs between libraries."""
    basis = fit_basis(*moments(0)[:2], np.eye(C), C)
    largest = np.abs(basis.encoder).argmax(axis=0)
    assert (basis.encoder[largest, np.arange(C)] > 0).all()


@pytest.mark.parametrize("rank", [0, C + 1])
def test_a_rank_out_of_range_is_refused(rank):
    with pytest.raises(ValueError, match=f"rank {rank} is not from 1 to {C}"):
        fit_basis(*moments(0), rank)


def test_a_metric_of_nothing_is_refused():
    with pytest.raises(ValueError, match="metric is zero"):
        fit_basis(np.zeros(C), np.eye(C), np.zeros((C, C)), 1)
