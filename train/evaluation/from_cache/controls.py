"""Controls: scores that tell how much of a figure is owed to the language.

- ``shuffled``: the same head, the same videos, each expression's text replaced by another's.
- ``every_object``: all of VITA's own masks that it is sure of, whatever the text says.
- ``nothing``: empty masks.
- ``best_choice``: those of VITA's own masks that fit the truth best; what a perfect
  understanding of the text could reach with this frozen segmenter.
"""

from collections.abc import Sequence

import numpy as np
import torch
from scipy.special import softmax

from cache_schema.reader import Video
from train.evaluation.jf import Outline
from train.evaluation.protocols.expressions import Score, Tally
from train.replay import vita_masks

SURE = 0.5  # a video query counts as an object if that is its probability of being any at all


class NoDonor(ValueError):
    """An expression cannot get the text of another."""


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
        NoDonor: an expression has none (a single video, or all texts the same).
    """
    rng = np.random.default_rng(seed)
    video, text = (np.unique(names, return_inverse=True)[1] for names in (videos, texts))
    chosen = []
    for i in range(len(video)):
        pool = np.flatnonzero((video != video[i]) & (text != text[i]))
        if not len(pool):
            raise NoDonor("no other video has an expression with another text")
        chosen.append(int(rng.choice(pool)))
    return chosen


def every_object(video_logits: np.ndarray) -> np.ndarray:
    """Indices of the video queries that are some object with a probability above 0.5.

    Args:
        video_logits: (N_v, K+1), no-object last.
    """
    return np.flatnonzero(1.0 - softmax(video_logits, axis=-1)[:, -1] > SURE)


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


class SegmenterControls:
    """The controls that need no head, from one pass over the segmenter's own masks.

    Args:
        targets: for each of the E expressions whether it means anything.
    """

    def __init__(
        self, video: Video, targets: Sequence[bool], *, device: torch.device | str
    ) -> None:
        self._sure = every_object(video.video_logits())
        self._frames = vita_masks(video, device=device)
        size = (video.geometry.height, video.geometry.width)
        self._masks, self._truth = PackedMasks(size), PackedMasks(size)
        self._every, self._nothing, self._best = (Tally(targets) for _ in range(3))

    def add(self, truth: Sequence[Outline], truth_masks: np.ndarray) -> None:
        """Count the next frame; its truth is (E, H, W) bool."""
        masks = next(self._frames)  # (N_v, H, W)
        every, nothing = masks[self._sure].any(0), np.zeros(masks.shape[1:], bool)
        self._every.add(truth, [Outline(every)] * len(truth))
        self._nothing.add(truth, [Outline(nothing)] * len(truth))
        self._masks.add(masks)
        self._truth.add(truth_masks)

    def scores(self) -> dict[str, list[Score]]:
        """For each control one score an expression, after the last frame."""
        masks, truths = self._masks.words(), self._truth.words()  # (N_v or E, T, words)
        best = np.stack([best_choice(masks, truth)[0] for truth in truths])
        for t in range(truths.shape[1]):
            true, chosen = self._truth.unpack(truths[:, t]), self._masks.unpack(best[:, t])
            self._best.add(list(map(Outline, true)), list(map(Outline, chosen)))
        return {
            "every_object": self._every.scores(),
            "nothing": self._nothing.scores(),
            "best_choice": self._best.scores(),
        }
