"""Masks out of their runs: the pixels that they had, and no trust in their text."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as coco

from cache_schema.run_lengths import has_pixels, run_ends
from train.run_lengths import decode, paint


def encoded(mask: np.ndarray) -> str:
    return coco.encode(np.asfortranarray(mask, np.uint8))["counts"].decode()


def painted(ends: np.ndarray, height: int, width: int) -> np.ndarray:
    mask = np.zeros(height * width, np.uint8)
    paint(ends, mask)
    return mask.reshape(width, height).T


SIZES = st.tuples(st.integers(1, 12), st.integers(1, 12))


@settings(max_examples=80)
@given(SIZES.flatmap(lambda size: st.lists(arrays(np.bool_, size), min_size=1, max_size=4)))
def test_masks_come_out_as_they_went_in(masks: list[np.ndarray]) -> None:
    height, width = masks[0].shape
    found = run_ends([encoded(mask) for mask in masks], (height, width))
    for mask, ends in zip(masks, found, strict=True):
        assert has_pixels(ends) == mask.any()
        if mask.any():
            assert np.array_equal(painted(ends, height, width), mask)
        for counts in (encoded(mask), encoded(mask).encode()):
            whole = decode({"size": list(mask.shape), "counts": counts})
            assert whole.dtype == bool and np.array_equal(whole, mask)


def test_empty_runs_are_allowed() -> None:
    """Zeros 2, ones 0, zeros 1, ones 2, zeros 1, as another program might write it."""
    ends = run_ends(["201" + chr(48 + 2) + chr(48)], (3, 2))[0]
    assert painted(ends, 3, 2).T.ravel().tolist() == [0, 0, 0, 1, 1, 0]
    assert has_pixels(ends)


def test_runs_of_length_zero_are_runs() -> None:
    # 0 off, 3 on, 0 off, 1 on (as the difference to 3); 1 off, 0 on, 1 off, 2 on.
    assert decode({"size": [2, 2], "counts": "030N"}).tolist() == [[1, 1], [1, 1]]
    assert decode({"size": [2, 2], "counts": "1012"}).tolist() == [[0, 1], [0, 1]]


@pytest.mark.parametrize(
    ("counts", "words"),
    [("", "no compressed COCO string"), ("4 ", "no compressed"), ("3", "do not fill 2x2"),
     ("5", "do not fill"), ("P", "no compressed"), ("PPPPPPPP1", "beyond any image"),
     ("15O", "do not fill")],
)  # fmt: skip
def test_malformed_text_is_refused(counts: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        decode({"size": [2, 2], "counts": counts})
