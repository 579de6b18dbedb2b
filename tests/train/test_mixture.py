"""Mixtures of caches: shares, orders, and the same sample whoever asks when."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache_schema.host.cli import InputError
from train.data.compatible import check_compatible
from train.data.mixture import Mixture


def test_without_weights_every_epoch_is_one_permutation_of_all_pairs():
    mixture = Mixture([3, 5], [], seed=4)
    epochs = np.array([mixture.pair(n) for n in range(24)]).reshape(3, 8)
    assert (np.sort(epochs) == np.arange(8)).all()
    assert len({tuple(epoch) for epoch in epochs}) == 3


@settings(max_examples=50)
@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 7)), min_size=1, max_size=4),
    st.integers(0, 300),
)
def test_every_cache_gets_its_share_and_goes_through_its_own_epochs(heaps, number):
    sizes, weights = zip(*heaps, strict=True)
    mixture = Mixture(sizes, weights, seed=1)
    pairs = [mixture.pair(n) for n in range(number)]
    ends = np.cumsum(sizes)
    ranges = [range(end - size, end) for end, size in zip(ends, sizes, strict=True)]
    drawn = [[p for p in pairs if p in heap] for heap in ranges]
    for own, size, weight in zip(drawn, sizes, weights, strict=True):
        assert abs(len(own) - number * weight / sum(weights)) < len(sizes)
        whole = own[: len(own) // size * size]
        assert all(count == len(own) // size for count in Counter(whole).values())


def test_a_sample_depends_on_seed_and_number_only():
    mixture = Mixture([4, 7], [1, 2], seed=3)
    forward = [mixture.pair(n) for n in range(60)]
    assert [Mixture([4, 7], [1, 2], seed=3).pair(n) for n in (59, 2, 33)] == [
        forward[n] for n in (59, 2, 33)
    ]
    assert [Mixture([4, 7], [1, 2], seed=5).pair(n) for n in range(60)] != forward


BASE = {
    "segmenter": {"window_size": 6},
    "weights_sha256": "a",
    "text": {"encoder": "b"},
    "codec": {"name": "lowrank-int8", "rank": 16, "basis_sha256": "c"},
    "resize": {"short": 360},
}


def test_caches_may_differ_in_data_size_and_basis():
    other = BASE | {"resize": None, "codec": BASE["codec"] | {"basis_sha256": "d"}}
    check_compatible({"one": BASE, "two": other})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights_sha256": "z"}, r'two does not fit one: weights_sha256: "z" != "a"; extract'),
        ({"segmenter": {"window_size": 0}}, r"segmenter\.window_size: 0 != 6"),
        ({"text": None}, r"text"),
        ({"codec": {"name": "float16"}}, r"codec\.name.*data\.mixed_codecs=True"),
    ],
)
def test_caches_that_mean_something_else_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        check_compatible({"one": BASE, "two": BASE | change})


def test_codecs_may_be_mixed_on_request():
    check_compatible({"one": BASE, "two": BASE | {"codec": {"name": "int8"}}}, mixed_codecs=True)
