"""Mask features into codes, on the segmenter's device: the torch side of `cache_schema.codecs`.

Also fits the low-rank codec to a sample of the data set, and measures what a codec costs VITA's own
masks.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, cycle, islice

import numpy as np
import torch
from torch import Tensor

from cache_schema.basis import fit_basis
from cache_schema.codecs import LOWRANK, SMALLEST, Basis, Codec, get_codec, narrow
from cache_schema.host.cli import InputError
from cache_schema.records import CodecIoU
from extract.segmenters.masks import mask_logits

#: Of each sample some frames are kept to choose the rank by, in bounded memory.
KEPT_FRAMES = 2
KEPT_BYTES = 1 << 30

NOT_FINITE = "it holds NaN or infinite values"


@dataclass(frozen=True)
class Sample:
    """What a codec is fitted to.

    Attributes:
        features: F_mask of some frames, (t, C, h, w).
        embeds: mask embeddings of the video queries that count, (N, C).
    """

    features: Tensor
    embeds: Tensor


def confident(logits: Tensor) -> Tensor:
    """Which video queries' masks count: those that are rather some object than none.

    Args:
        logits: (N_v, K+1), no-object last.

    Returns:
        (N_v,) bool; the best query if there would be none.
    """
    absent = logits.softmax(-1)[:, -1]
    sure = absent < 0.5
    sure[absent.argmin()] |= ~sure.any()
    return sure


@torch.no_grad()
def encode(features: Tensor, codec: Codec) -> dict[str, np.ndarray]:
    """Code mask features where they are; only codes travel to the host.

    One product a frame, so that the codes do not depend on the frames that come together. They are
    those of `Codec.encode`, but that products may be rounded differently: where a component lies
    half way between two codes, a low-rank code may be one more or less.

    Args:
        features: (t, C, h, w).
        codec: with its basis if it has one.

    Returns:
        The arrays of ``codec.layout``, each with a leading t.

    Raises:
        InputError: NaN or infinite values, or values beyond the stored type.
    """
    if not codec.scaled:
        dtype = getattr(torch, codec.dtype.name)
        # Rounding keeps the order, so all values are finite if the extremes are; NaN is both.
        extremes = torch.stack([features.amax(), features.amin()])
        if not extremes.to(dtype).isfinite().all():
            narrow(features.float().cpu().numpy(), codec.dtype)  # says why
        return {"values": features.to(dtype).cpu().contiguous().numpy()}
    layout = codec.layout(*features.shape[1:])
    values = features.new_empty(
        (len(features), *layout["values"][0]), dtype=getattr(torch, codec.dtype.name)
    )
    scales = features.new_empty((len(features), *layout["scales"][0]), dtype=torch.float32)
    # One for all frames: fresh memory costs more than the arithmetic.
    buffer = torch.empty(layout["values"][0], device=features.device).flatten(1)
    projection = _projection(codec.basis, features.device) if codec.basis else None
    for k, frame in enumerate(features):
        components = _components(frame.flatten(1), projection, buffer)
        scales[k] = _quantise(components, values[k].flatten(1), buffer)
    if not scales.isfinite().all():
        raise InputError(NOT_FINITE)
    return {"values": values.cpu().numpy(), "scales": scales.cpu().numpy()}


@torch.no_grad()
def encode_together(features: Tensor, codec: Codec) -> tuple[dict[str, Tensor], Tensor]:
    """The same on a device that is better at few large steps: nothing waits, nothing travels.

    Args:
        features, codec: see `encode`.

    Returns:
        The arrays of ``codec.layout``, each with a leading t, and whether they can be stored (a
        bool; if not, `encode` says why).
    """
    if not codec.scaled:
        values = features.to(getattr(torch, codec.dtype.name))
        extremes = torch.stack([features.amax(), features.amin()]).to(values.dtype)
        return {"values": values}, extremes.isfinite().all()
    components = features.flatten(2).float()  # (t, C, h*w)
    if codec.basis:
        encoder, offset = _projection(codec.basis, features.device)
        with torch.autocast(features.device.type, enabled=False):
            each = encoder.expand(len(components), -1, -1)  # (t, R, C)
            components = torch.baddbmm(offset, each, components)  # (t, R, h*w)
    scales = torch.maximum(components.amax(2), -components.amin(2)) / codec.levels  # (t, R)
    scales = torch.where(scales < SMALLEST, 0, scales)
    steps = torch.where(scales > 0, scales, 1)[..., None]
    values = (components / steps).round_().to(getattr(torch, codec.dtype.name))
    codes = {"values": values.unflatten(2, features.shape[2:]), "scales": scales}
    return codes, scales.isfinite().all()


@lru_cache(maxsize=2)  # a codec that is being fitted, and the one that is used
def _projection(basis: Basis, device: torch.device) -> tuple[Tensor, Tensor]:
    """``a`` (R, C) and ``b`` (R, 1) of a F + b = (F - mean) encoder: no centred copy of F."""
    with torch.inference_mode(False):  # they outlive the call
        offset = torch.from_numpy(-(basis.mean @ basis.encoder)[:, None])
        return torch.from_numpy(basis.encoder).to(device).T, offset.to(device)


def _components(flat: Tensor, projection: tuple[Tensor, Tensor] | None, buffer: Tensor) -> Tensor:
    """What is to be quantised of a frame (C, h*w) in float32: itself, or (R, h*w) in ``buffer``."""
    if projection is None:
        return flat.float()
    encoder, offset = projection
    with torch.autocast(flat.device.type, enabled=False):
        return torch.addmm(offset, encoder, flat.float(), out=buffer)


def _quantise(components: Tensor, codes: Tensor, buffer: Tensor) -> Tensor:
    """Write codes of (R, h*w) components into ``codes``, by way of ``buffer``.

    Returns:
        The scales (R,).
    """
    scales = torch.maximum(components.amax(1), -components.amin(1)) / torch.iinfo(codes.dtype).max
    scales = torch.where(scales < SMALLEST, 0, scales)
    steps = torch.where(scales > 0, scales, 1)[:, None]
    codes.copy_(torch.div(components, steps, out=buffer).round_())
    return scales


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
        features, embeds = first[0].features, first[0].embeds
        others = features[1::2] if len(features) > 1 else features
        first = [Sample(features[::2], embeds), Sample(others, embeds)]
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
        embeds = sample.embeds.double()
        self.queries += len(embeds)
        self.metric = self.metric + (embeds.T @ embeds).cpu().numpy()
        if not np.isfinite(self.products).all() or not np.isfinite(self.metric).all():
            raise InputError(f"the codec cannot be fitted to this sample: {NOT_FINITE}")

    def __add__(self, other: "Moments") -> "Moments":
        total = Moments()
        for name, value in vars(self).items():
            setattr(total, name, value + getattr(other, name))
        return total

    def basis(self, rank: int, *, weighted: bool = True) -> Basis:
        """The basis that `fit_basis` finds for what was counted; without weights, plain PCA."""
        mean = self.sum / self.pixels
        covariance = self.products / self.pixels - np.outer(mean, mean)
        metric = self.metric / max(self.queries, 1) if weighted else np.eye(len(mean))
        return fit_basis(mean, covariance, metric, rank)


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
        features = sample.features[np.unique(chosen)].float().cpu()
        if self._bytes + features.nbytes <= KEPT_BYTES // 2 or not self._kept:
            self._kept.append(Sample(features, sample.embeds.float().cpu()))
            self._bytes += features.nbytes

    def ious(self, basis: Basis) -> np.ndarray:
        """`iou_by_rank` of the kept frames, (R, M)."""
        return np.concatenate([iou_by_rank(s.features, s.embeds, basis) for s in self._kept], 1)


class CodedLogits:
    """Mask logits of embeddings over coded frames, on the embeddings' device.

    As `Codec.mask_logits`, with what does not depend on the frame done once. For features that are
    stored as they are, the same product as `extract.segmenters.masks.mask_logits`.

    Args:
        codec: of the frames.
        embeds: (N, C).
    """

    def __init__(self, codec: Codec, embeds: Tensor) -> None:
        weights, bias = codec.project(embeds.cpu().numpy())
        self._weights = torch.from_numpy(weights).to(embeds.device)  # (N, R)
        self._bias = torch.from_numpy(bias[:, None]).to(embeds.device) if codec.basis else None

    def __call__(
        self, stored: Mapping[str, np.ndarray], rows: Tensor | slice = slice(None)
    ) -> Tensor:
        """Logits (n, h, w) in one frame.

        Args:
            stored: the coded arrays of the frame.
            rows: which embeddings; all of them by default.
        """
        weights = self._weights[rows]
        values = torch.from_numpy(stored["values"]).to(weights.device)  # (R, h, w)
        if "scales" in stored:
            weights = weights * torch.from_numpy(stored["scales"]).to(weights.device)
        logits = weights @ values.flatten(1).float()  # (n, h*w)
        if self._bias is not None:
            logits += self._bias[rows]
        return logits.unflatten(1, values.shape[1:])

    def together(self, stored: Mapping[str, Tensor], rows: slice) -> Tensor:
        """Logits (t, n, h, w) in t frames whose coded arrays are on the embeddings' device."""
        weights, values = self._weights[rows], stored["values"]
        if "scales" in stored:
            weights = weights * stored["scales"][:, None]  # (t, n, R)
        logits = weights @ values.flatten(2).float()  # (t, n, h*w)
        if self._bias is not None:
            logits += self._bias[rows]
        return logits.unflatten(2, values.shape[2:])


def _iou(exact: Tensor, coded: Tensor) -> Tensor:
    """IoU of masks with exact ones that are not empty.

    Args:
        exact, coded: (M, h*w) bool.

    Returns:
        (M,) float64.
    """
    return (exact & coded).sum(1).double() / (exact | coded).sum(1)


@torch.no_grad()
def codec_iou(
    exact: Tensor, coded: dict[str, np.ndarray], embeds: Tensor, codec: Codec
) -> np.ndarray:
    """What coding costs masks: IoU of each that is not empty in the exact features.

    A cell of the feature map is inside where its logit is above 0.

    Args:
        exact: mask features (t, C, h, w) before they were coded.
        coded: what `encode` made of them.
        embeds: mask embeddings (N, C), such as those of `confident` queries.
        codec: with its basis if it has one.

    Returns:
        (M,) float64; M is at most t * N.
    """
    embeds = embeds.float()
    logits = CodedLogits(codec, embeds)
    frames = ({name: array[k] for name, array in coded.items()} for k in range(len(exact)))
    after = torch.cat([logits(frame) for frame in frames]).flatten(1) > 0  # (t*N, h*w)
    before = mask_logits(exact.float(), embeds).flatten(0, 1).flatten(1) > 0
    shown = before.any(1)
    return _iou(before[shown], after[shown]).cpu().numpy()


def summarise(ious: Sequence[np.ndarray]) -> CodecIoU | None:
    """Several results of `codec_iou` in one; None if there was no mask."""
    every = np.concatenate([*ious, np.empty(0)])
    if not len(every):
        return None
    return CodecIoU(mean=float(every.mean()), worst=float(every.min()), masks=len(every))


@torch.no_grad()
def iou_by_rank(features: Tensor, embeds: Tensor, basis: Basis) -> np.ndarray:
    """IoU of masks from int8 codes of every rank up to the basis's, which are prefixes of it.

    Args:
        features: (t, C, h, w).
        embeds: (N, C).
        basis: of rank R.

    Returns:
        (R, M) float64 for the M masks that `codec_iou` compares.
    """
    embeds = embeds.float()
    decoder, mean = (torch.from_numpy(a).to(embeds.device) for a in (basis.decoder, basis.mean))
    weights, bias = embeds @ decoder.T, embeds @ mean  # (N, R), (N,)
    projection = _projection(basis, features.device)
    frames = []
    for frame in features:
        flat = frame.float().flatten(1)
        exact = embeds @ flat > 0  # (N, h*w)
        shown = exact.any(1)
        exact = exact[shown]  # (M, h*w)
        buffer = flat.new_empty(basis.rank, flat.shape[1])
        codes = torch.empty_like(buffer, dtype=torch.int8)
        scales = _quantise(_components(flat, projection, buffer), codes, buffer)
        scaled = (weights * scales)[shown]  # (M, R)
        logits = bias[shown][:, None].repeat(1, flat.shape[1])
        curve = []
        for r, code in enumerate(codes):
            logits += scaled[:, r, None] * code
            curve.append(_iou(exact, logits > 0))
        frames.append(torch.stack(curve))  # (R, M)
    return torch.cat(frames, dim=1).cpu().numpy()
