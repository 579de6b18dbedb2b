"""Masks out of their runs: the pixels and the sides that they had."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as coco

from cache_schema.run_lengths import run_ends
from train.data.rle import paint, sides


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
    found = run_ends([encoded(mask) for mask in masks], (height, width))
    for mask, ends in zip(masks, found, strict=True):
        if mask.any():
            assert np.array_equal(painted(ends, height, width), mask)
            rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
            expected = (rows[0], rows[-1] + 1, columns[0], columns[-1] + 1)
            assert sides(ends, height) == expected
        else:
            assert sides(ends, height) is None


def test_empty_runs_are_allowed() -> None:
    """Zeros 2, ones 0, zeros 1, ones 2, zeros 1, as another program might write it."""
    ends = run_ends(["201" + chr(48 + 2) + chr(48)], (3, 2))[0]
    assert painted(ends, 3, 2).T.ravel().tolist() == [0, 0, 0, 1, 1, 0]
    assert sides(ends, 3) == (0, 2, 1, 2)
