"""COCO's compressed run lengths, decoded straight to packed masks."""

import numpy as np

from cache_schema.records import RLE
from cache_schema.run_lengths import run_ends
from train.evaluation import bits


def pack(rle: RLE, words: int) -> np.ndarray:
    """The mask of a run-length code: (H, words) uint64.

    Raises:
        ValueError: the code is malformed, or does not fill its mask exactly.
    """
    height, width = rle["size"]
    (ends,) = run_ends([rle["counts"]], rle["size"])
    # Each end switches all pixels after it: those below in its column, and all later columns.
    column, row = np.divmod(ends[ends < height * width], height)
    switches = np.zeros((height, words), np.uint64)
    at = np.uint64(1) << (column % 64).astype(np.uint64)
    np.bitwise_xor.at(switches, (row, column // 64), at)
    below = np.bitwise_xor.accumulate(switches, axis=0)
    later = bits.parity(bits.shifted(below[-1:], 1))
    return (below ^ later) & bits.first(width, words)
