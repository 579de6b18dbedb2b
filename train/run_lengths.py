"""Masks out of their runs (`cache_schema.run_lengths`), with work for the pixels that are set only.

`pycocotools.mask.decode`, which this equals, writes every pixel of a mask, and in an order that has
to be turned round. Here a mask stays in the order of its runs, column by column.
"""

import cv2
import numpy as np

from cache_schema.records import RLE
from cache_schema.run_lengths import run_ends

Sides = tuple[int, int, int, int]
"""First row, row after the last, first column and column after the last of a mask's pixels."""


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


def sides(ends: np.ndarray, height: int) -> Sides | None:
    """Between which rows and columns a mask's pixels lie.

    Args:
        ends: of its runs.
        height: H.

    Returns:
        None when no pixel is set.
    """
    pairs = ends[: len(ends) // 2 * 2].reshape(-1, 2)
    pairs = pairs[pairs[:, 0] < pairs[:, 1]]
    if not len(pairs):
        return None
    (left, top), (right, bottom) = divmod(pairs[:, 0], height), divmod(pairs[:, 1] - 1, height)
    rows = (top.min(), bottom.max() + 1)
    # A run that goes on in the next column is in the last row of one and the first of the other.
    first, end = rows if np.array_equal(left, right) else (0, height)
    return int(first), int(end), int(left[0]), int(right[-1]) + 1
