"""Mask features into codes, on the segmenter's device: the torch side of `cache_schema.codecs`.

Also measures what a codec costs the segmenter's own masks.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from cache_schema.codecs import SMALLEST, Basis, Codec, get_codec, narrow
from cache_schema.host.cli import InputError
from cache_schema.records import CodecIoU
from extract.segmenters.masks import mask_logits

NOT_FINITE = "it holds NaN or infinite values"


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


def carrier(codec: Codec) -> Codec:
    """What brings mask features to the writer: the codec, or an exact one where it stores none."""
    return get_codec("float32") if codec.dtype is None else codec


def in_numpy(codec: Codec) -> bool:
    """Whether only `Codec.encode` itself knows how a codec codes."""
    plain = type(codec).encode is Codec.encode
    return not plain or (codec.basis is not None and not codec.scaled)


@torch.no_grad()
def encode(features: Tensor, codec: Codec) -> dict[str, np.ndarray]:
    """Code mask features where they are; only codes travel to the host.

    One product a frame, so that the codes do not depend on the frames that come together. They are
    those of `Codec.encode`, but that products may be rounded differently: where a component lies
    half way between two codes, a low-rank code may be one more or less.

    Args:
        features: (t, C, h, w).

    Returns:
        The arrays of ``codec.layout``, each with a leading t.

    Raises:
        InputError: NaN or infinite values, or values beyond the stored type.
    """
    if in_numpy(codec):
        return codec.encode(features.float().cpu().numpy())
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
        features, codec: see `encode`; not `in_numpy`.

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


class CodedLogits:
    """Mask logits of embeddings over coded frames, on the embeddings' device.

    As `Codec.mask_logits`, with what does not depend on the frame done once. For features that are
    stored as they are, the same product as `extract.segmenters.masks.mask_logits`.

    Args:
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

    def together(self, stored: Mapping[str, Tensor], rows: Tensor) -> Tensor:
        """Logits (t, n, h, w) in t frames whose coded arrays are on the embeddings' device.

        Args:
            stored: the coded arrays of the frames.
            rows: which embeddings, (n,), or (t, n) in each frame.
        """
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
        embeds: (N, C), or (t, N, C).
        basis: of rank R.

    Returns:
        (R, M) float64 for the M masks that `codec_iou` compares.
    """
    decoder, mean = (torch.from_numpy(a).to(embeds.device) for a in (basis.decoder, basis.mean))
    projection = _projection(basis, features.device)
    frames = []
    for frame, own in zip(features, embeds.float().expand(len(features), -1, -1), strict=True):
        weights, bias = own @ decoder.T, own @ mean  # (N, R), (N,)
        flat = frame.float().flatten(1)
        exact = own @ flat > 0  # (N, h*w)
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
