"""Mask logits in the coded space of the cache: the torch side of `cache_schema.codecs`.

A codec's affine map is applied to the mask embeddings, which are few, and not to the mask
features, so the C channels are never made and a product has only R:

    F.e ~ (mean + decoder^T z).e = mean.e + z.(decoder e),    z = scale * values
"""

from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cache_schema.codecs import Codec
from train.bilinear import neighbours

FEW = 2
"""Points are few where a map has this many times more pixels."""

SMALL = 2**20
"""Clips with at most this many values are small."""


def project(embeds: Tensor, codec: Codec) -> tuple[Tensor, Tensor | None]:
    """Mask embeddings in the coded space, differentiable.

    Args:
        embeds: (..., C).
        codec: of the mask features, with its basis if it has one.

    Returns:
        (..., R) to multiply the scaled values with, and (...) to add to the logits; without a
        basis the embeddings themselves, and None.
    """
    if codec.basis is None:
        return embeds, None
    decoder, mean = _basis(codec, embeds.device)
    return embeds @ decoder.T, embeds @ mean


@lru_cache(maxsize=8)
@torch.inference_mode(False)  # what is kept has to serve training, too
def _basis(codec: Codec, device: torch.device) -> tuple[Tensor, Tensor]:
    """Decoder and mean on a device; a copy for every product would wait for it each time."""
    decoder, mean = map(torch.from_numpy, (codec.basis.decoder, codec.basis.mean))
    return decoder.to(device), mean.to(device)


def mask_logits(
    stored: Mapping[str, Tensor | np.ndarray], embeds: Tensor, *, codec: Codec
) -> Tensor:
    """Mask logits of some frames, Eq. (10).

    One matrix product a frame, with the operands in this order and layout: stage one computes
    its masks in the same form, so from a float32 cache both give the same bits.

    Args:
        stored: the coded frames as the cache holds them, ``values`` (t, R, h, w), t >= 1.
        embeds: (N, C) float32.
        codec: of the cache.

    Returns:
        (t, N, h, w) float32, on the device of the embeddings.
    """
    arrays = {name: torch.as_tensor(array).to(embeds.device) for name, array in stored.items()}
    weights, bias = project(embeds, codec)
    frames = []
    for t, frame in enumerate(arrays["values"]):
        scaled = weights * arrays["scales"][t] if codec.scaled else weights  # (N, R)
        logits = scaled @ frame.float().flatten(1)  # (N, R) @ (R, h * w)
        if bias is not None:
            logits = logits + bias[:, None]
        frames.append(logits.unflatten(1, frame.shape[1:]))  # (N, h, w)
    return torch.stack(frames)


class MaskFeatures:
    """The mask features of one clip, coded; `MaskStack` computes with them.

    Args:
        stored: as for `mask_logits`.
        codec: of the cache.
    """

    def __init__(self, stored: Mapping[str, Tensor | np.ndarray], codec: Codec) -> None:
        self.codec = codec
        self.stored = {name: torch.as_tensor(array) for name, array in stored.items()}

    @property
    def shape(self) -> tuple[int, int, int]:
        """(T, h, w)."""
        frames, _, height, width = self.stored["values"].shape
        return frames, height, width

    def to(self, device: torch.device | str) -> "MaskFeatures":
        """The same features on another device."""
        return MaskFeatures({n: array.to(device) for n, array in self.stored.items()}, self.codec)


class MaskStack:
    """The mask features of G clips side by side, for training.

    They become float32 when the first logits are asked for, and are kept for all that follow.

    Args:
        clips: at least one, all of one size and codec.
    """

    def __init__(self, clips: Sequence[MaskFeatures]) -> None:
        self.clips = list(clips)
        self.codec = clips[0].codec

    @property
    def shape(self) -> tuple[int, int, int]:
        """(T, h, w)."""
        return self.clips[0].shape

    def logits(self, embeds: Tensor, counts: Sequence[int]) -> Tensor:
        """Mask logits of all frames, differentiable.

        Args:
            embeds: (I, C), those of the first clip first.
            counts: how many each clip has, I in all.

        Returns:
            (I, T, h, w).
        """
        weights, bias = project(embeds, self.codec)
        T, h, w = self.shape
        maps = []
        for own, planes in zip(weights.split(list(counts)), self._planes, strict=True):
            maps.append(torch.bmm(own.expand(T, -1, -1), planes).transpose(0, 1))  # (I', T, h * w)
        flat = torch.cat(maps)
        if bias is not None:
            flat = flat + bias[:, None, None]
        return flat.unflatten(2, (h, w))

    @torch.no_grad()
    def at(self, embeds: Tensor, points: Tensor) -> Tensor:
        """Mask logits at points of every frame, without gradients.

        Interpolation and the product with an embedding commute: with few points the features are
        interpolated and the maps are never made.

        Args:
            embeds: (G, L, N, C).
            points: (G, L, P, 2), fractions of the padded image, shared by N queries and T frames.

        Returns:
            (G, L, P, T, N).
        """
        _, h, w = self.shape
        weights, bias = project(embeds, self.codec)  # (G, L, N, R), (G, L, N)
        x, y, part = (own.movedim(0, -1) for own in neighbours(points, h, w))  # (G, L, P, 4)
        read = self._interpolated if FEW * points.shape[2] <= h * w else self._from_maps
        logits = read(weights, y * w + x, part)
        if bias is None:
            return logits
        # Beyond the edge a map is zero, so near it the bias counts in part only.
        return logits + bias[:, :, None, None] * part.sum(-1)[..., None, None]

    def _interpolated(self, weights: Tensor, pixels: Tensor, part: Tensor) -> Tensor:
        """Interpolate the features, then multiply; see `at`."""
        G, L, P, _ = pixels.shape
        T, h, w = self.shape
        starts = torch.arange(G * T, device=pixels.device) * (h * w)
        places = pixels[:, :, :, None] + starts.view(G, 1, 1, T, 1)  # (G, L, P, T, 4)
        table = self._planes.mT.flatten(0, 2)  # (G * T * h * w, R)
        features = weighted_rows(table, places, part[:, :, :, None].expand_as(places))
        return (features.flatten(2, 3) @ weights.mT).unflatten(2, (P, T))

    def _from_maps(self, weights: Tensor, pixels: Tensor, part: Tensor) -> Tensor:
        """Make the maps of one clip at a time and interpolate those; see `at`."""
        G, L, P, _ = pixels.shape
        N = weights.shape[2]
        T, h, w = self.shape
        logits = weights.new_empty(G, L, P, T, N)
        # A pixel's values for all frames and queries side by side: a point is four rows of them.
        rows = weights.new_empty(h * w, T, N)
        for g in range(G):
            # One product for all layers, so that the features are read once.
            queries = weights[g].flatten(0, 1).expand(T, -1, -1)  # (T, L * N, R)
            maps = torch.bmm(queries, self._planes[g]).unflatten(1, (L, N))
            for layer in range(L):
                rows.copy_(maps[:, layer].permute(2, 0, 1))
                values = weighted_rows(rows.flatten(1), pixels[g, layer], part[g, layer])
                logits[g, layer] = values.unflatten(1, (T, N))
        return logits

    @cached_property
    def _planes(self) -> Tensor:
        """z: the values times their scales, (G, T, R, h * w) float32.

        Of small clips a pixel's values lie side by side: points are read four times faster then,
        and maps a little slower. Large clips stay as stored, for it takes long to turn them.
        """
        first = self.clips[0].stored["values"]
        T, R, h, w = first.shape
        small = first.numel() <= SMALL
        # Whoever asks first may want no gradients; a segmenter in training needs them.
        with torch.enable_grad():
            shape = (h, w, R) if small else (R, h, w)
            coded = torch.empty(len(self.clips), T, *shape, device=first.device)
            planes = coded.permute(0, 1, 4, 2, 3) if small else coded
            for g, clip in enumerate(self.clips):
                # Codes are turned before they become float32: fewer bytes move.
                values = clip.stored["values"]
                coded[g] = values.permute(0, 2, 3, 1).contiguous() if small else values
                if self.codec.scaled:
                    planes[g] *= clip.stored["scales"][:, :, None, None]
            return planes.flatten(3)


def weighted_rows(table: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
    """Weighted sums of rows of a table.

    Args:
        table: (S, C) float32.
        rows: (..., K) int64.
        weights: (..., K).

    Returns:
        (..., C).
    """
    flat = F.embedding_bag(
        rows.reshape(-1, rows.shape[-1]),
        table,
        per_sample_weights=weights.reshape(-1, rows.shape[-1]),
        mode="sum",
    )
    return flat.view(*rows.shape[:-1], -1)
