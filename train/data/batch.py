"""Samples of any length made into one batch, and a whole video with some expressions."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from cache_schema.codecs import Codec
from cache_schema.reader import Video
from cache_schema.records import Expression
from train.data.targets import ClipRuns
from train.heads.base import HeadInputs
from train.masks.logits import MaskFeatures
from train.masks.supervision import Supervision
from train.masks.targets import Targets


@dataclass
class Sample:
    """One clip and one expression, as read from the cache; None stands for what nobody reads.

    Attributes:
        times: which frame of the video each of the clip's frames is, (T,).
        frame_queries: Q_f of the clip's frames, (T, N_f, C).
        video_queries: Q_v of the clip or of the whole video, (N_v, C).
        video_logits: (N_v, K + 1).
        tracks: (N_v, T, 6).
        mask_embeds: (N_v, C_mask) or (T, N_v, C_mask).
        mask_features: the coded frames, each (T, ...); of a staged sample where from:
            the video and T frames of it.
        cache: its number among the caches.
        targets: the objects it means that the clip shows; of a staged sample their runs.
        overlaps: of each video query with each target, (N_v, M); see `Batch`.
        ids: (4,); see `Batch`.
        number: of the sample in training.
    """

    times: np.ndarray
    frame_queries: np.ndarray | None
    video_queries: np.ndarray | None
    video_logits: np.ndarray | None
    tracks: np.ndarray | None
    mask_embeds: np.ndarray | None
    mask_features: Mapping[str, Tensor] | tuple[Video, np.ndarray] | None
    codec: Codec
    cache: int
    expression: Expression
    targets: Targets | ClipRuns | None
    overlaps: np.ndarray | None
    ids: np.ndarray | None = None
    number: int = 0


@dataclass
class Batch:
    """B samples: what the head reads, and what its loss compares it with.

    Attributes:
        inputs: of the head.
        mask_features: of each sample, of any size; none where nobody draws masks.
        targets: the true masks of each sample, M of them; none where nobody draws masks.
        overlaps: of each sample (N_v, M) float32, IoU of the video query's own mask with each
            target; none where nobody reads them or where the cache does not hold them.
        ids: of each sample (4,) int64: the number of its expression; one that all expressions of
            the video share which mean the same objects; one that all of the video share; and how
            many expressions there are. None where nobody reads them.
    """

    inputs: HeadInputs
    mask_features: list[MaskFeatures]
    targets: list[Targets]
    overlaps: list[Tensor] = field(default_factory=list)
    ids: list[Tensor] = field(default_factory=list)

    @cached_property
    def supervision(self) -> Supervision:
        """What the loss compares with, the same for all heads that train on this batch."""
        embeds, maps = self.inputs.mask_embeds, self.mask_features
        if maps and embeds is not None and embeds.dim() == 4:  # (B, T, N_v, C_mask)
            maps = [own.beside(its[: own.shape[0]]) for own, its in zip(maps, embeds, strict=True)]
        return Supervision(maps, self.targets)

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on a device: this one, with what it has prepared, where it is there."""
        if self.inputs.sentence.device == torch.device(device):
            return self
        parts = (self.mask_features, self.targets, self.overlaps, self.ids)
        return Batch(self.inputs.to(device), *([own.to(device) for own in part] for part in parts))


def collate(samples: Sequence[Sample]) -> Batch:
    """Pad words and frames to the longest of the batch.

    Args:
        samples: B samples with equal numbers of queries and channels.
    """
    drawn = [sample for sample in samples if sample.mask_features is not None]
    return Batch(
        head_inputs(samples),
        [MaskFeatures(sample.mask_features, sample.codec) for sample in drawn],
        [sample.targets for sample in drawn],
        of_each(samples, "overlaps"),
        of_each(samples, "ids"),
    )


def head_inputs(samples: Sequence[Sample]) -> HeadInputs:
    """What the head reads of B samples, words and frames padded to the longest."""
    times, frame_mask = _pad([sample.times for sample in samples])
    found: dict[str, Tensor] = {"times": times, "frame_mask": frame_mask}
    for name in ("frame_queries", "video_queries", "video_logits", "tracks", "mask_embeds"):
        arrays = [getattr(sample, name) for sample in samples]
        if any(array is None for array in arrays):
            continue
        if name == "tracks":  # (N_v, T, 6), of which T differs
            padded = _pad([array.swapaxes(0, 1) for array in arrays])[0]
            found[name] = padded.transpose(1, 2).contiguous()
        elif name == "frame_queries" or arrays[0].ndim == 3:  # (T, ...)
            found[name] = _pad(arrays)[0]
        else:
            found[name] = _stack(arrays)
    return HeadInputs.of(found | _text([sample.expression for sample in samples]))


def of_each(samples: Sequence[Sample], name: str) -> list[Tensor]:
    """An array of each sample as a tensor; none where a sample has none."""
    arrays = [getattr(sample, name) for sample in samples]
    return [] if any(a is None for a in arrays) else [torch.from_numpy(a) for a in arrays]


def video_batch(
    video: Video, expressions: Sequence[Expression], reads: Collection[str]
) -> HeadInputs:
    """All frames of a video with the video queries of the whole, for several expressions.

    Args:
        video: T frames.
        expressions: B of them, at least one, not necessarily the video's own.
        reads: fields of `HeadInputs` that somebody reads.

    Returns:
        Inputs for a batch of B; the video's part is stored once and only looks repeated.
    """
    count = len(expressions)
    parts = {
        "frame_queries": video.frame_queries,
        "video_queries": video.video_queries,
        "video_logits": video.video_logits,
        "tracks": video.tracks,
        "times": video.frame_times,
        "mask_embeds": video.video_mask_embeds,
    }
    found = {n: torch.from_numpy(read()).float() for n, read in parts.items() if n in reads}
    return HeadInputs.of(
        {name: tensor.expand(count, *tensor.shape) for name, tensor in found.items()}
        | {"frame_mask": torch.ones(count, video.num_frames, dtype=torch.bool)}
        | _text(expressions)
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
