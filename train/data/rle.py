"""COCO's compressed run-length masks, with work for the pixels that are set only.

`pycocotools.mask.decode`, which this equals, writes every pixel of a mask, and in an order that has
to be turned round. Here a mask stays in the order of its runs, column by column.
"""

from collections.abc import Sequence

import numpy as np

Sides = tuple[int, int, int, int]
"""First row, row after the last, first column and column after the last of a mask's pixels."""
DIGITS = 7  # of 5 bits, for a count: what a mask of 2^31 pixels needs


def run_ends(counts: Sequence[str], pixels: int) -> list[np.ndarray]:
    """Where the runs of masks end, the first run of each of zeros and perhaps empty.

    Args:
        counts: COCO's compressed strings: numbers in digits of 5 bits, the lowest first, from the
            fourth number on as the difference to the last but one.
        pixels: H * W.

    Returns:
        For each mask (runs,) int64, ascending, the last one H * W.

    Raises:
        ValueError: one is no such string, or its runs do not make a mask of that size.
    """
    if not counts:
        return []
    digits = np.frombuffer("".join(counts).encode(), np.uint8).astype(np.int64) - 48
    is_last = (digits & 32) == 0  # of the digits of a number
    stops = np.cumsum([len(text) for text in counts])
    # A character that is no digit would be one too many here, or make a number too long.
    if "" in counts or stops[-1] != len(digits) or not is_last[stops - 1].all():
        raise ValueError("it is not COCO's compressed string")
    lasts = np.flatnonzero(is_last)
    firsts = np.concatenate([[0], lasts[:-1] + 1])
    lengths = lasts - firsts + 1
    if digits.min() < 0 or digits.max() > 63 or lengths.max() > DIGITS:
        raise ValueError("it is not COCO's compressed string")
    place = np.arange(len(digits)) - np.repeat(firsts, lengths)
    runs = np.add.reduceat((digits & 31) << (5 * place), firsts)
    # The highest bit of the last digit is the sign, in two's complement.
    runs -= ((digits[lasts] & 16) != 0).astype(np.int64) << (5 * lengths)
    found = []
    for own in np.split(runs, np.searchsorted(lasts, stops[:-1])):
        for chain in (own[1::2], own[2::2]):
            np.cumsum(chain, out=chain)
        found.append(np.cumsum(own))
        if own.min() < 0 or found[-1][-1] != pixels:
            raise ValueError(f"its runs do not make a mask of {pixels} pixels")
    return found


def paint(ends: np.ndarray, mask: np.ndarray) -> None:
    """Set the pixels of a mask.

    Args:
        ends: from `run_ends`.
        mask: (W * H,) uint8 zeros, column by column.
    """
    runs = np.diff(ends[: len(ends) // 2 * 2])  # without the zeros at the beginning and the end
    values = np.ones(len(runs), np.uint8)
    values[1::2] = 0
    mask[ends[0] : ends[0] + runs.sum()] = values.repeat(runs)


def sides(ends: np.ndarray, height: int) -> Sides | None:
    """Between which rows and columns a mask's pixels lie.

    Args:
        ends: from `run_ends`.
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
