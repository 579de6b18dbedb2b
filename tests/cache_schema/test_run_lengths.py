"""Masks out of their runs: what pycocotools encodes comes back, anything else is refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as coco

from cache_schema.run_lengths import compress, run_ends


def encoded(mask: np.ndarray) -> bytes:
    return coco.encode(np.asfortranarray(mask, np.uint8))["counts"]


def pixels(ends: np.ndarray, height: int, width: int) -> np.ndarray:
    """(H, W) bool: set where an odd number of runs has ended."""
    ended = np.searchsorted(ends, np.arange(height * width), side="right")
    return (ended % 2 == 1).reshape(width, height).T


def number(value: int) -> str:
    """A number as COCO writes it, in as many digits of 5 bits as its sign needs."""
    text = ""
    while not -16 <= value < 16:
        text += chr((value & 31 | 32) + 48)
        value >>= 5
    return text + chr((value & 31) + 48)


SIZES = st.tuples(st.integers(1, 12), st.integers(1, 12))


@settings(max_examples=80)
@given(SIZES.flatmap(lambda size: st.lists(arrays(np.bool_, size), min_size=1, max_size=4)))
def test_masks_come_out_as_they_went_in(masks: list[np.ndarray]) -> None:
    texts = [encoded(mask) for mask in masks]
    for given_as in (texts, [text.decode() for text in texts]):
        found = run_ends(given_as, masks[0].shape)
        for mask, ends in zip(masks, found, strict=True):
            assert np.array_equal(pixels(ends, *mask.shape), mask)
    assert [compress(mask).encode() for mask in masks] == texts


def test_large_masks_have_long_numbers() -> None:
    rng = np.random.default_rng(0)
    y, x = np.ogrid[:480, :854]
    masks = [
        np.hypot(y - 200, x - 300) < 90 + 9 * np.sin(x / 7),
        rng.random((480, 854)) < 0.5,
        np.ones((480, 854), bool),
        (y == 479) & (x == 853),
    ]
    found = run_ends([encoded(mask) for mask in masks], (480, 854))
    for mask, ends in zip(masks, found, strict=True):
        assert np.array_equal(pixels(ends, 480, 854), mask)
        assert compress(mask).encode() == encoded(mask)


def test_empty_runs_are_allowed() -> None:
    """Zeros 2, ones 0, zeros 1, ones 2, zeros 1, as another program might write it."""
    assert run_ends(["201" + number(2) + number(0)], (3, 2))[0].tolist() == [2, 2, 3, 5, 6]


def test_no_masks_are_none() -> None:
    assert run_ends([], (2, 3)) == []


@pytest.mark.parametrize("counts", ["", "P", "1P", "1 ", "1p", "1é", "1\ud800", "1\n", b"\xff"])
def test_what_is_no_such_string_is_refused(counts: str | bytes) -> None:
    for others in ([], ["6"]):
        with pytest.raises(ValueError, match="no compressed COCO string"):
            run_ends([*others, counts, *others], (2, 3))


def test_a_number_of_too_many_digits_is_refused() -> None:
    with pytest.raises(ValueError, match="beyond any image"):
        run_ends(["PPPPPPP1"], (2, 3))


@pytest.mark.parametrize("counts", ["5", "7", "O6", "33O", "1O7", "1221O"])
def test_runs_that_do_not_make_the_mask_are_refused(counts: str) -> None:
    """Too few, too many, and negative ones that nothing may be painted for."""
    for others in ([], ["6"]):
        with pytest.raises(ValueError, match="do not fill 2x3 pixels"):
            run_ends([counts, *others], (2, 3))


def test_runs_whose_sum_wraps_around_to_the_size_are_refused() -> None:
    steps = 40_000  # runs 1, 1, 2, 2, 3, 3, ... times a factor: all positive, 2^64 + 6 in all
    factor, rest = divmod(2**64 + 6, steps * (steps + 1))
    text = number(rest) + number(factor) * (2 * steps)
    with pytest.raises(ValueError, match="do not fill"):
        run_ends([text], (2, 3))
