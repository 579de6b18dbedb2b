"""COCO's compressed run lengths, decoded straight to packed masks.

Runs go down the columns, off and on in turn. As text each is little-endian groups of five bits with
a sixth that says whether more follow, from the fourth run on as the difference to the one before
the last. The C code of pycocotools trusts what it is given; here everything is checked.
"""

import numpy as np

from cache_schema.records import RLE
from train.evaluation import bits


def pack(rle: RLE, words: int) -> np.ndarray:
    """The mask of a run-length code: (H, words) uint64.

    Raises:
        ValueError: the code is malformed, or does not fill its mask exactly.
    """
    height, width = rle["size"]
    runs = _runs(rle["counts"])
    ends = np.cumsum(runs)
    if runs.min() < 0 or ends[-1] != height * width:
        raise ValueError(f"its runs do not fill {height}x{width} pixels")
    # Each end switches all pixels after it: those below in its column, and all later columns.
    column, row = np.divmod(ends[ends < height * width], height)
    switches = np.zeros((height, words), np.uint64)
    at = np.uint64(1) << (column % 64).astype(np.uint64)
    np.bitwise_xor.at(switches, (row, column // 64), at)
    below = np.bitwise_xor.accumulate(switches, axis=0)
    later = bits.parity(bits.shifted(below[-1:], 1))
    return (below ^ later) & bits.first(width, words)


def _runs(counts: str | bytes) -> np.ndarray:
    codes = np.frombuffer(counts if isinstance(counts, bytes) else counts.encode(), np.uint8)
    codes = codes.astype(np.int64) - 48
    if not len(codes) or codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        raise ValueError("its counts are no compressed COCO string")
    last = np.flatnonzero(codes & 32 == 0)  # of each run's groups
    first = np.concatenate([[0], last[:-1] + 1])
    place = np.arange(len(codes)) - np.repeat(first, last - first + 1)
    if place.max() > 6:
        raise ValueError("its counts go beyond any image")
    runs = np.add.reduceat((codes & 31) << (5 * place), first)
    runs -= np.where(codes[last] & 16, 1 << (5 * (last - first + 1)), 0)  # negative ones
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    return runs
