"""Run lengths straight to packed masks: as pycocotools decodes them, and no trust in their text."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco

from train.evaluation import bits, rle


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 30), st.integers(1, 200), st.sampled_from([0, 0.01, 0.5, 0.99, 1]),
       st.integers(0, 9999))  # fmt: skip
def test_masks_come_back(height: int, width: int, share: float, seed: int) -> None:
    mask = np.random.default_rng(seed).random((height, width)) < share
    code = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    words = (width + 63) // 64 + seed % 2
    for counts in (code["counts"], code["counts"].decode()):
        packed = rle.pack({"size": [height, width], "counts": counts}, words)
        assert packed.shape == (height, words)
        np.testing.assert_array_equal(bits.unpack(packed, width), mask)
        np.testing.assert_array_equal(packed, bits.pack(mask, words))


def test_runs_of_length_zero_are_runs() -> None:
    # 0 off, 3 on, 0 off, 1 on (as the difference to 3); 1 off, 0 on, 1 off, 2 on.
    assert rle.pack({"size": [2, 2], "counts": "030N"}, 1).tolist() == [[3], [3]]
    assert rle.pack({"size": [2, 2], "counts": "1012"}, 1).tolist() == [[2], [2]]


@pytest.mark.parametrize(
    ("counts", "words"),
    [("", "no compressed COCO string"), ("4 ", "no compressed"), ("3", "do not fill 2x2"),
     ("5", "do not fill"), ("P", "no compressed"), ("PPPPPPPP1", "beyond any image"),
     ("15O", "do not fill")],
)  # fmt: skip
def test_malformed_text_is_refused(counts: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        rle.pack({"size": [2, 2], "counts": counts}, 1)
