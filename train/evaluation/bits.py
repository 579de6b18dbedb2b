"""Masks with one bit a pixel: NumPy operations on 64 pixels at once.

A mask of H rows is (H, words) uint64, the first pixel of a row in the lowest bit of its first word.
What is behind the last pixel of a row is zero.
"""

from functools import lru_cache

import numpy as np


def pack(mask: np.ndarray, words: int) -> np.ndarray:
    """(H, W) of any type, what is not zero is set, to (H, words) uint64."""
    bits = np.packbits(mask, axis=1, bitorder="little")
    padded = np.zeros((len(mask), 8 * words), np.uint8)
    padded[:, : bits.shape[1]] = bits
    return padded.view("<u8")


def unpack(bits: np.ndarray, width: int) -> np.ndarray:
    """(H, words) uint64 to (H, W) bool."""
    return np.unpackbits(bits.view(np.uint8), axis=1, count=width, bitorder="little").view(bool)


@lru_cache(maxsize=64)
def first(number: int, words: int) -> np.ndarray:
    """One row with its first bits set, (words,) uint64. Not to be written to."""
    return pack(np.arange(64 * words)[None] < number, words)[0]


def count(bits: np.ndarray) -> int:
    """Number of set bits."""
    return int(np.bitwise_count(bits).sum(dtype=np.int64))


def shifted(bits: np.ndarray, by: int) -> np.ndarray:
    """All bits moved ``by`` columns (-63 to 63, not 0) up or down, as if all rows were one.

    What leaves a row comes back at the end of its neighbour: rows need ``by`` bits of margin.
    """
    flat = bits.reshape(-1)
    carry = 64 - abs(by)
    if by > 0:
        moved = flat << by
        moved[1:] |= flat[:-1] >> carry
    else:
        moved = flat >> -by
        moved[:-1] |= flat[1:] << carry
    return moved.reshape(bits.shape)


def parity(bits: np.ndarray) -> np.ndarray:
    """Each bit becomes the XOR of itself and all before it in its row: (H, words)."""
    for by in (1, 2, 4, 8, 16, 32):
        bits = bits ^ (bits << by)
    ends = np.bitwise_xor.accumulate(bits >> 63, axis=1)
    bits[:, 1:] ^= -ends[:, :-1]  # all ones where an odd number came before the word
    return bits
