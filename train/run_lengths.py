"""Masks out of their runs (`cache_schema.run_lengths`), with work for the pixels that are set only.

`pycocotools.mask.decode`, which this equals, writes every pixel of a mask, and in an order that has
to be turned round. Here a mask stays in the order of its runs, column by column.
"""

import cv2
import numpy as np

from cache_schema.records import RLE
from cache_schema.run_lengths import run_ends


def paint(ends: np.ndarray, mask: np.ndarray) -> None:
    """Set the pixels of a mask.

    Args:
        ends: of its runs.
        mask: (W * H,) uint8 zeros, column by column.
    """
    runs = np.diff(ends[: len(ends) // 2 * 2])  # without the zeros at the beginning and the end
    values = np.ones(len(runs), np.uint8)
    values[1::2] = 0
    mask[ends[0] : ends[0] + runs.sum()] = values.repeat(runs)


def decode(rle: RLE) -> np.ndarray:
    """The mask of a run-length code, row by row: (H, W) bool.

    Raises:
        ValueError: the code is malformed, or does not fill its mask exactly.
    """
    height, width = rle["size"]
    (ends,) = run_ends([rle["counts"]], (height, width))
    mask = np.zeros(height * width, np.uint8)
    paint(ends, mask)
    return cv2.transpose(mask.reshape(width, height)).view(bool)
