"""Masks out of their runs: the pixels that pycocotools gives, or a refusal."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as coco

from train.data.rle import paint, run_ends, sides


def encoded(mask: np.ndarray) -> str:
    return coco.encode(np.asfortranarray(mask, np.uint8))["counts"].decode()


def painted(ends: np.ndarray, height: int, width: int) -> np.ndarray:
    mask = np.zeros(height * width, np.uint8)
    paint(ends, mask)
    return mask.reshape(width, height).T


SIZES = st.tuples(st.integers(1, 12), st.integers(1, 12))


@settings(max_examples=80, deadline=None, derandomize=True)
@given(SIZES.flatmap(lambda size: st.lists(arrays(np.bool_, size), min_size=1, max_size=4)))
def test_masks_come_out_as_they_went_in(masks: list[np.ndarray]) -> None:
    height, width = masks[0].shape
    found = run_ends([encoded(mask) for mask in masks], height * width)
    for mask, ends in zip(masks, found, strict=True):
        if mask.any():
            assert np.array_equal(painted(ends, height, width), mask)
            rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
            expected = (rows[0], rows[-1] + 1, columns[0], columns[-1] + 1)
            assert sides(ends, height) == expected
        else:
            assert sides(ends, height) is None


def test_large_masks_have_long_numbers() -> None:
    rng = np.random.default_rng(0)
    y, x = np.ogrid[:480, :854]
    masks = [
        np.hypot(y - 200, x - 300) < 90 + 9 * np.sin(x / 7),
        rng.random((480, 854)) < 0.5,
        np.ones((480, 854), bool),
        (y == 479) & (x == 853),
    ]
    for mask, ends in zip(masks, run_ends(list(map(encoded, masks)), 480 * 854), strict=True):
        assert np.array_equal(painted(ends, 480, 854), mask)


def test_empty_runs_are_allowed() -> None:
    """Zeros 2, ones 0, zeros 1, ones 2, zeros 1, as another program might write it."""
    ends = run_ends(["201" + chr(48 + 2) + chr(48)], 6)[0]
    assert ends.tolist() == [2, 2, 3, 5, 6]
    assert painted(ends, 3, 2).T.ravel().tolist() == [0, 0, 0, 1, 1, 0]
    assert sides(ends, 3) == (0, 2, 1, 2)


def test_no_masks_are_none() -> None:
    assert run_ends([], 6) == []


@pytest.mark.parametrize("counts", ["", "P", "1P", "1 ", "1p", "1é", "1\ud800", "PPPPPPP1", "1\n"])
def test_what_is_no_such_string_is_refused(counts: str) -> None:
    with pytest.raises(ValueError):
        run_ends(["6", counts], 6)


@pytest.mark.parametrize("counts", ["5", "7", "O6", "33O", "1O7", "1221O"])
def test_runs_that_do_not_make_the_mask_are_refused(counts: str) -> None:
    """Too few, too many, and negative ones that nothing may be painted for."""
    with pytest.raises(ValueError, match="mask of 6 pixels"):
        run_ends([counts, "6"], 6)
