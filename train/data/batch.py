"""Samples of any length made into one batch, and a whole video with some expressions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from cache_schema.codecs import Codec
from cache_schema.places import Places
from cache_schema.reader import Video
from cache_schema.records import Expression
from train.data.affinity import objectness, track_distance
from train.data.targets import Boxes, ClipRuns
from train.heads.base import HeadInputs
from train.masks.logits import MaskFeatures
from train.masks.supervision import Supervision
from train.masks.targets import Targets


@dataclass
class Sample:
    """One clip and one expression, as read from the cache.

    Attributes:
        frame_queries: Q_f of the clip's frames, (T, N_f, C).
        video_queries: Q_v of the clip or of the whole video, (N_v, C).
        video_logits: (N_v, K + 1).
        tracks: (N_v, T, 6).
        mask_features: the coded frames, each (T, ...); of a staged sample their places.
        codec: of the mask features.
        cache: its number among the caches.
        expression: the expression.
        targets: the objects it means that the clip shows; of a staged sample their runs.
        boxes: around them.
    """

    frame_queries: np.ndarray
    video_queries: np.ndarray
    video_logits: np.ndarray
    tracks: np.ndarray
    mask_features: Mapping[str, Tensor] | Places
    codec: Codec
    cache: int
    expression: Expression
    targets: Targets | ClipRuns
    boxes: Boxes


@dataclass
class Batch:
    """B samples: what the head reads, and per sample the mask features and targets of any size.

    ``distances`` are (N_v, M) each, see `track_distance`; ``overlaps`` (N_v, M) are the IoU of each
    video query's own mask with each target, none where the cache does not hold them.
    """

    inputs: HeadInputs
    mask_features: list[MaskFeatures]
    targets: list[Targets]
    distances: list[Tensor]
    overlaps: list[Tensor] = field(default_factory=list)

    @cached_property
    def supervision(self) -> Supervision:
        """What the loss compares with, the same for all heads that train on this batch."""
        return Supervision(self.mask_features, self.targets)

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on a device: this one, with what it has prepared, where it is there."""
        if self.inputs.sentence.device == torch.device(device):
            return self
        return Batch(
            self.inputs.to(device),
            [features.to(device) for features in self.mask_features],
            [targets.to(device) for targets in self.targets],
            [distance.to(device) for distance in self.distances],
            [own.to(device) for own in self.overlaps],
        )


def collate(samples: Sequence[Sample]) -> Batch:
    """Pad words and frames to the longest of the batch.

    Args:
        samples: B samples with equal numbers of queries and channels.
    """
    return Batch(
        head_inputs(samples),
        [MaskFeatures(sample.mask_features, sample.codec) for sample in samples],
        [sample.targets for sample in samples],
        [distance(sample) for sample in samples],
    )


def head_inputs(samples: Sequence[Sample]) -> HeadInputs:
    """What the head reads of B samples, words and frames padded to the longest."""
    frame_queries, frame_mask = _pad([sample.frame_queries for sample in samples])
    return HeadInputs(
        frame_queries=frame_queries,
        frame_mask=frame_mask,
        video_queries=_stack([sample.video_queries for sample in samples]),
        video_logits=_stack([sample.video_logits for sample in samples]),
        **_text([sample.expression for sample in samples]),
    )


def distance(sample: Sample) -> Tensor:
    """Of each video query from each target, (N_v, M) float32; see `track_distance`."""
    scores = objectness(sample.video_logits)
    return torch.from_numpy(track_distance(sample.tracks, scores, sample.boxes))


def video_batch(video: Video, expressions: Sequence[Expression]) -> HeadInputs:
    """All frames of a video with the video queries of the whole, for several expressions.

    Args:
        video: T frames.
        expressions: B of them, at least one, not necessarily the video's own.

    Returns:
        Inputs for a batch of B; the video's part is stored once and only looks repeated.
    """
    count = len(expressions)

    def repeated(array: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(array).float()
        return tensor.expand(count, *tensor.shape)

    return HeadInputs(
        frame_queries=repeated(video.frame_queries()),
        frame_mask=torch.ones(count, video.num_frames, dtype=torch.bool),
        video_queries=repeated(video.video_queries()),
        video_logits=repeated(video.video_logits()),
        **_text(expressions),
    )


def _text(expressions: Sequence[Expression]) -> dict[str, Tensor]:
    words, word_mask = _pad([e.words for e in expressions])
    return {
        "words": words,
        "word_mask": word_mask,
        "static": _pad([e.static for e in expressions])[0].bool(),
        "motion": _pad([e.motion for e in expressions])[0].bool(),
        "sentence": _stack([e.sentence for e in expressions]),
    }


def _stack(arrays: Sequence[np.ndarray]) -> Tensor:
    return torch.stack([torch.from_numpy(array) for array in arrays]).float()


def _pad(arrays: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
    """Arrays (n_b, ...) to (B, max n, ...) float32, zeros at the end, and the mask (B, max n)."""
    lengths = torch.tensor([len(array) for array in arrays])
    longest = int(lengths.max())
    padded = torch.empty(len(arrays), longest, *arrays[0].shape[1:])
    for row, array in zip(padded, arrays, strict=True):
        row[: len(array)] = torch.from_numpy(array)
        row[len(array) :] = 0.0
    return padded, torch.arange(longest) < lengths[:, None]
