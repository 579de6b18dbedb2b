"""COCO's compressed run lengths, without trust: many masks at once, and no pixel of them.

A mask is runs down its columns, off and on in turn, the first one off and perhaps empty. As text
each run is a number in digits of 5 bits, the lowest first, with a sixth bit that says whether more
follow; from the fourth run on it is the difference to the last but one. The C code of pycocotools
believes whatever it is given; here everything is checked.
"""

from collections.abc import Sequence

import numpy as np

from cache_schema.host.limits import beyond

DIGITS = 7  # of a number: what a mask of 2^31 pixels needs


def run_ends(counts: Sequence[str | bytes], size: Sequence[int]) -> list[np.ndarray]:
    """Where the runs of masks of one size end, counted in pixels down the columns.

    Args:
        counts: COCO's compressed strings.
        size: (H, W).

    Returns:
        For each mask (runs,) int64, ascending, the last one H * W: pixels from the first to the
        second are set, from the third to the fourth, and so on.

    Raises:
        ValueError: one is no such string, or its runs do not fill its mask exactly.
    """
    if not counts:
        return []
    # What is not ASCII becomes bytes that are no digits.
    texts = [c if isinstance(c, bytes) else c.encode("utf-8", "surrogatepass") for c in counts]
    digits = np.frombuffer(b"".join(texts), np.uint8).astype(np.int64) - 48
    stops = np.cumsum([len(text) for text in texts])
    is_last = (digits & 32) == 0  # of the digits of a number
    if not all(texts) or digits.min() < 0 or digits.max() > 63 or not is_last[stops - 1].all():
        raise ValueError("its counts are no compressed COCO string")
    lasts = np.flatnonzero(is_last)
    firsts = np.concatenate([[0], lasts[:-1] + 1])
    lengths = lasts - firsts + 1
    if lengths.max() > DIGITS:
        raise ValueError("its counts go beyond any image")
    place = np.arange(len(digits)) - np.repeat(firsts, lengths)
    runs = np.add.reduceat((digits & 31) << (5 * place), firsts)
    # The highest bit of the last digit is the sign, in two's complement.
    runs -= ((digits[lasts] & 16) != 0).astype(np.int64) << (5 * lengths)
    height, width = size
    if much := beyond(height * width, "DMVS_MAX_PIXELS"):
        raise ValueError(f"its size of {height}x{width} makes {much}")
    found = []
    for own in np.split(runs, np.searchsorted(lasts, stops[:-1])):
        for chain in (own[1::2], own[2::2]):
            np.cumsum(chain, out=chain)
        ends = np.cumsum(own)
        # Ascending also tells that no sum has gone beyond 64 bits.
        ascending = ends[0] >= 0 and (ends[:-1] <= ends[1:]).all()
        if not ascending or ends[-1] != height * width or min(height, width) < 1:
            raise ValueError(f"its runs do not fill {height}x{width} pixels")
        found.append(ends)
    return found


def has_pixels(ends: np.ndarray) -> bool:
    """Whether a mask has any pixel, by the ends of its runs."""
    ends = ends[: len(ends) // 2 * 2]
    return bool((ends[::2] < ends[1::2]).any())


def compress(mask: np.ndarray) -> str:
    """COCO's compressed string of a mask (H, W) bool."""
    flat = mask.ravel(order="F")
    changes = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff(np.concatenate([[0, 0][: 1 + int(flat[0])], changes, [flat.size]]))
    runs[3:] -= runs[1:-2].copy()
    digits = bytearray()
    for run in runs.tolist():
        more = True
        while more:
            digit, run = run & 31, run >> 5
            more = run != (-1 if digit & 16 else 0)
            digits.append(digit + 32 * more + 48)
    return digits.decode()
