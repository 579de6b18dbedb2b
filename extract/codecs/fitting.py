"""The low-rank codec of a data set: the basis that costs the masks least, fitted to a sample of it.

Mask logits are products e.F of a mask embedding e and a pixel's features F, so of an error dF only
E|e.dF|^2 = dF^T E[e e^T] dF matters. Plain PCA keeps the directions in which features vary most;
here they are weighted by how much embeddings look at them: PCA of W F, with W the square root of
the metric E[e e^T]. Directions that no embedding looks at cost nothing to leave out.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, cycle, islice

import numpy as np
from torch import Tensor
from tqdm import tqdm

from cache_schema.codecs import LOWRANK, Basis, Codec, get_codec
from cache_schema.host.cli import InputError
from extract.codecs.mask_codec import NOT_FINITE, confident, iou_by_rank
from extract.datasets import Dataset
from extract.pipeline.beside import ahead
from extract.pipeline.inference import clip_of
from extract.pipeline.parts import Images
from extract.pipeline.reading import chunks
from extract.stage import Stage

#: Added to the metric, as a fraction of its mean eigenvalue. It makes W invertible, and leaves some
#: weight to directions that the embeddings at hand do not use but those of a trained head may.
RIDGE = 1e-3


def fit_basis(mean: np.ndarray, covariance: np.ndarray, metric: np.ndarray, rank: int) -> Basis:
    """The basis of ``rank`` with the smallest E|e.dF|^2.

    Bases of other ranks from the same moments are prefixes of each other. Computed in float64,
    with the sign of every direction fixed, so that equal moments give an equal basis.

    Args:
        mean: of the features, (C,).
        covariance: of the features, (C, C).
        metric: E[e e^T] of mask embeddings, (C, C), not zero; the identity gives plain PCA.
        rank: R, from 1 to C.

    Raises:
        ValueError: a rank out of range, or a metric that is zero.
    """
    channels = len(mean)
    if not 1 <= rank <= channels:
        raise ValueError(f"rank {rank} is not from 1 to {channels}")
    ridge = RIDGE * np.trace(metric) / channels
    if not ridge > 0:
        raise ValueError("the metric is zero")
    weights, axes = np.linalg.eigh(metric + ridge * np.eye(channels))
    roots = np.sqrt(np.maximum(weights, ridge))  # rounding can leave an eigenvalue below the ridge
    root, inverse = (axes * roots) @ axes.T, (axes / roots) @ axes.T  # W and W^-1
    directions = np.linalg.eigh(root @ covariance @ root)[1][:, ::-1]  # V, the strongest first
    largest = np.abs(directions).argmax(axis=0)
    directions = directions * np.sign(directions[largest, np.arange(channels)])
    return Basis(
        mean=mean.astype(np.float32),
        encoder=np.ascontiguousarray((root @ directions)[:, :rank], np.float32),
        decoder=np.ascontiguousarray((directions.T @ inverse)[:rank], np.float32),
    )


#: Of each sample some frames are kept to choose the rank by, in bounded memory.
KEPT_FRAMES = 2
KEPT_BYTES = 1 << 30


@dataclass(frozen=True)
class Sample:
    """What a codec is fitted to.

    Attributes:
        features: F_mask of some frames, (t, C, h, w).
        embeds: mask embeddings of the video queries that count, (N, C), or (t, N, C) where they
            change from frame to frame.
    """

    features: Tensor
    embeds: Tensor

    def __getitem__(self, frames: slice | np.ndarray) -> "Sample":
        """Some of the frames."""
        embeds = self.embeds if self.embeds.dim() == 2 else self.embeds[frames]
        return Sample(self.features[frames], embeds)


def fit(samples: Iterable[Sample], *, name: str, rank: int | str, iou: float) -> Codec:
    """The codec of a name, with a basis fitted to samples if it needs one.

    Args:
        samples: of the data set, in random order; gone through once, and only if needed.
        name: one of `cache_schema.codecs.CODECS`.
        rank: of the basis; ``"auto"`` is the lowest that keeps the mean mask IoU. It is chosen by
            bases fitted to one half of the samples, on frames of the other half.
        iou: what ``"auto"`` has to keep.

    Raises:
        InputError: there are no samples, they are not finite, or no rank will do.
    """
    if name != LOWRANK:
        return get_codec(name)
    halves = _Half(), _Half()
    for sample, half in zip(_at_least_two(samples), cycle(halves)):
        half.add(sample, keep=rank == "auto")
    first, second = (half.moments for half in halves)
    if not first.pixels:
        raise InputError(f"codec {name!r} has no frame to be fitted to; give some, or 'float16'")
    channels = len(first.sum)
    if rank == "auto":
        ious = [halves[0].ious(second.basis(channels)), halves[1].ious(first.basis(channels))]
        rank = _lowest(np.concatenate(ious, axis=1), name, iou)
    if not 1 <= rank <= channels:
        raise InputError(f"codec {name!r}: rank {rank} is not from 1 to {channels}, the channels")
    return get_codec(name, (first + second).basis(rank))


def _at_least_two(samples: Iterable[Sample]) -> Iterator[Sample]:
    """The samples; the frames of a single one are shared out, so that each half has one."""
    iterator = iter(samples)
    first = list(islice(iterator, 2))
    if len(first) == 1:
        only = first[0]
        first = [only[::2], only[1::2] if len(only.features) > 1 else only]
    return chain(first, iterator)


def _lowest(ious: np.ndarray, name: str, wanted: float) -> int:
    """The lowest rank whose mean IoU is the wanted one, of IoUs (C, M) from rank 1 on."""
    if not ious.shape[1]:
        raise InputError(
            f"codec {name!r}: no sampled frame shows a mask to choose the rank by; give codec.rank"
        )
    means = ious.mean(axis=1)
    enough = np.flatnonzero(means >= wanted)
    if not len(enough):
        raise InputError(
            f"codec {name!r}: no rank keeps a mask IoU of {wanted:g}, the best is "
            f"{means.max():.4f} at rank {means.argmax() + 1}; ask for less with codec.iou, or take "
            "codec 'float16'"
        )
    return int(enough[0]) + 1


class Moments:
    """First and second moments of features, and the second one of embeddings, in float64."""

    def __init__(self) -> None:
        self.pixels = self.queries = 0
        self.sum = self.products = self.metric = np.float64(0)

    def add(self, sample: Sample) -> None:
        """Count a sample."""
        for frame in sample.features:
            flat = frame.flatten(1).double()  # (C, h*w)
            self.pixels += flat.shape[1]
            self.sum = self.sum + flat.sum(1).cpu().numpy()
            self.products = self.products + (flat @ flat.T).cpu().numpy()
        embeds = sample.embeds.flatten(0, -2).double()
        self.queries += len(embeds)
        self.metric = self.metric + (embeds.T @ embeds).cpu().numpy()
        if not np.isfinite(self.products).all() or not np.isfinite(self.metric).all():
            raise InputError(f"the codec cannot be fitted to this sample: {NOT_FINITE}")

    def __add__(self, other: "Moments") -> "Moments":
        total = Moments()
        for name, value in vars(self).items():
            setattr(total, name, value + getattr(other, name))
        return total

    def basis(self, rank: int) -> Basis:
        """The basis that `fit_basis` finds for what was counted."""
        mean = self.sum / self.pixels
        covariance = self.products / self.pixels - np.outer(mean, mean)
        return fit_basis(mean, covariance, self.metric / max(self.queries, 1), rank)


class _Half:
    """Half of the samples: moments to fit a basis to, frames to try the other half's basis on."""

    def __init__(self) -> None:
        self.moments = Moments()
        self._kept: list[Sample] = []
        self._bytes = 0

    def add(self, sample: Sample, *, keep: bool) -> None:
        """Count a sample, and perhaps keep a few of its frames on the host while there is room."""
        self.moments.add(sample)
        if not keep:
            return
        chosen = np.linspace(0, len(sample.features) - 1, KEPT_FRAMES).round().astype(int)
        some = sample[np.unique(chosen)]
        some = Sample(some.features.float().cpu(), some.embeds.float().cpu())
        if self._bytes + some.features.nbytes <= KEPT_BYTES // 2 or not self._kept:
            self._kept.append(some)
            self._bytes += some.features.nbytes

    def ious(self, basis: Basis) -> np.ndarray:
        """`iou_by_rank` of the kept frames, (R, M)."""
        return np.concatenate([iou_by_rank(s.features, s.embeds, basis) for s in self._kept], 1)


SAMPLE_SEED = 2


def fit_codec(stage: Stage, dataset: Dataset, depth: int) -> Codec:
    """Run the segmenter on clips of many videos, and fit the configured codec to them.

    Args:
        dataset: the whole of it, so that every restart would fit the same.
        depth: see `extract.pipeline.beside.ahead`.

    Raises:
        InputError: no video can be used, or no basis will do.
    """
    wanted = stage.config.codec
    clips = sample_clips(stage, dataset, wanted["frames"])
    with (
        ahead(clips, depth, "calibration") as prepared,
        tqdm(
            total=wanted["frames"], desc="fit codec", unit="frame", dynamic_ncols=True, disable=None
        ) as bar,
    ):
        samples = _samples(stage, prepared, bar)
        return fit(samples, name=wanted["name"], rank=wanted["rank"], iou=wanted["iou"])


def sample_clips(stage: Stage, dataset: Dataset, frames: int) -> Iterator[tuple[str, list[Images]]]:
    """Video ids with prepared clips in chunks, ``frames`` frames in all or as many as there are.

    Videos come in a seeded order, one seeded clip of each; when all have given one, a second clip
    of other frames of each. Videos that cannot be read are left out: whose turn it is to write
    them will say so.

    Raises:
        InputError: no video can be read; the reason is that of the first.
    """
    ids, size = dataset.ids, stage.config.clips["frames"]
    order = np.random.default_rng(SAMPLE_SEED).permutation(len(ids))
    left, number, reason = frames, 0, None
    found = True
    while found:
        found = False
        for k in order:
            try:
                video = dataset.video(ids[k], objects=False)
                shuffled = np.random.default_rng([SAMPLE_SEED, k]).permutation(video.num_frames)
                clip = np.sort(shuffled[number * size :][: min(size, left)])
                parts = list(chunks(stage, video, clip))
            except InputError as error:
                reason = reason or error
                continue
            if parts:
                found = True
                left -= len(clip)
                yield ids[k], parts
            if left == 0:
                return
        number += 1
    if left == frames:
        raise InputError(f"the codec cannot be fitted, no video can be read: {reason}")


def _samples(
    stage: Stage, clips: Iterable[tuple[str, list[Images]]], bar: tqdm
) -> Iterator[Sample]:
    found, reason = False, None
    for video_id, parts in clips:
        features, video = clip_of(stage.segmenter, map(stage.prepare, parts))
        bar.update(len(features))
        try:
            stage.check_finite(video_id, mask_features=features, mask_embeds=video.mask_embeds)
        except InputError as error:  # a video like one that cannot be read
            reason = reason or error
            continue
        found = True
        sure = confident(video.logits[0])
        yield Sample(features, video.mask_embeds[0][..., sure, :])
    if reason and not found:
        raise reason
