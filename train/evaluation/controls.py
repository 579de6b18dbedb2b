"""Controls: scores that tell how much of a figure is owed to the language.

- ``shuffled``: the same head, the same videos, each expression's text replaced by another's.
- ``every_object``: all of VITA's own masks that it is sure of, whatever the text says.
- ``nothing``: empty masks.
- ``best_choice``: those of VITA's own masks that fit the truth best; what a perfect
  understanding of the text could reach with this frozen segmenter.
"""

from collections.abc import Sequence

import numpy as np

from train.data.affinity import objectness

SURE = 0.5  # a video query counts as an object if that is its probability of being any at all


def donors(videos: Sequence[str], texts: Sequence[str], *, seed: int) -> list[int]:
    """Choose for every expression another whose text it gets.

    Drawn evenly from the expressions of other videos that read differently, with replacement: a
    permutation need not exist when one video has more than half of the expressions.

    Args:
        videos, texts: video id and text of each expression.
        seed: one seed, one choice.

    Returns:
        For each expression the index of its donor.

    Raises:
        ValueError: an expression without any donor (a single video, or all texts the same).
    """
    rng = np.random.default_rng(seed)
    video, text = (np.unique(names, return_inverse=True)[1] for names in (videos, texts))
    chosen = []
    for i in range(len(video)):
        pool = np.flatnonzero((video != video[i]) & (text != text[i]))
        if not len(pool):
            raise ValueError("no other video has an expression with another text")
        chosen.append(int(rng.choice(pool)))
    return chosen


def every_object(video_logits: np.ndarray) -> np.ndarray:
    """Indices of the video queries that are some object with a probability above 0.5.

    Args:
        video_logits: (N_v, K+1), no-object last.
    """
    return np.flatnonzero(objectness(video_logits) > SURE)


class PackedMasks:
    """Masks of a video, one bit a pixel, so that whole videos fit in memory.

    80 frames of 480x854 take 4 MB a mask. Frames are added one by one.
    """

    def __init__(self, size: tuple[int, int]) -> None:
        self._size = size
        self._frames: list[np.ndarray] = []

    def add(self, masks: np.ndarray) -> None:
        """Add one frame: (N, H, W) bool."""
        bits = np.packbits(masks.reshape(len(masks), -1), axis=-1)  # (N, ceil(H W / 8))
        bits = np.pad(bits, ((0, 0), (0, -bits.shape[1] % 8)))
        self._frames.append(bits.view(np.uint64))

    def words(self) -> np.ndarray:
        """All frames: (N, T, ceil(H W / 64)) uint64."""
        return np.stack(self._frames, axis=1)

    def unpack(self, words: np.ndarray) -> np.ndarray:
        """(..., ceil(H W / 64)) uint64 to (..., H, W) bool."""
        height, width = self._size
        bits = np.unpackbits(np.ascontiguousarray(words).view(np.uint8), axis=-1)
        return bits[..., : height * width].reshape(*words.shape[:-1], height, width).view(bool)


def best_choice(masks: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, list[int]]:
    """Greedy choice of masks whose union has the highest J with the truth.

    Starts from nothing and adds the mask that raises the IoU summed over the frames most, until
    none does. A truth that is empty everywhere chooses nothing.

    Args:
        masks: (N, T, words) uint64 of `PackedMasks`.
        truth: (T, words) uint64.

    Returns:
        The union (T, words) uint64 and the indices of the chosen masks.
    """
    # Only masks that touch the truth somewhere can raise the sum.
    candidates = np.flatnonzero((masks & truth).any(axis=(1, 2)))
    masks = masks[candidates]
    union = np.zeros_like(truth)
    best, chosen = float(_region(union, truth)), []
    while len(masks):
        gains = _region(union | masks, truth)  # (N,)
        winner = int(gains.argmax())
        if gains[winner] <= best:
            break
        best = float(gains[winner])
        union = union | masks[winner]
        chosen.append(int(candidates[winner]))
    return union, chosen


def _region(prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """J summed over the frames: (..., T, words) with (T, words) -> (...)."""
    overlap = np.bitwise_count(prediction & truth).sum(-1, dtype=np.int64)  # (..., T)
    union = np.bitwise_count(prediction | truth).sum(-1, dtype=np.int64)
    return np.where(union == 0, 1.0, overlap / np.maximum(union, 1)).sum(-1)
