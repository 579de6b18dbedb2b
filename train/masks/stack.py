"""Mask logits on a CPU, in training: for clips of one size, in parts that its cache holds."""

from collections.abc import Iterator, Sequence
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from train.masks.bilinear import neighbours
from train.masks.logits import MaskFeatures, project
from train.memory import empty

FEW = 2
"""Points are few where a map has this many times more pixels."""

AT_ONCE = 2**21
"""Logits of whole maps, or values at points, that are made together: few, as a CPU's cache holds
few."""

SMALL = 2**20
"""Clips with at most this many values are small."""


class MaskStack:
    """The mask features of G clips side by side; on a GPU see `train.masks.tables`.

    They become float32 when the first logits are asked for, and are kept for all that follow. The
    mask logits of N_v video queries may be channels beside the C_mask others; embeddings have C
    numbers, C_mask or with those of the others C_mask + N_v.

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

    @property
    def num_clips(self) -> int:
        """G."""
        return len(self.clips)

    def logits(self, embeds: Tensor, counts: Sequence[int]) -> Tensor:
        """Mask logits of all frames, differentiable.

        Args:
            embeds: (I, C), those of the first clip first.
            counts: how many each clip has, I in all.

        Returns:
            (I, T, h, w).
        """
        T, h, w = self.shape
        maps = []
        weights = self._weights(embeds).split(list(counts))
        for own, planes in zip(weights, self._planes, strict=True):
            maps.append(torch.bmm(own.expand(T, -1, -1), planes).transpose(0, 1))  # (I', T, h * w)
        return torch.cat(maps).unflatten(2, (h, w))

    @torch.no_grad()
    def read(self, embeds: Tensor, points: Tensor) -> Iterator[tuple[slice, slice, Tensor]]:
        """Mask logits at points, the same in every frame; without gradients.

        Interpolation and the product with an embedding commute: with few points the features are
        interpolated and the maps are never made.

        Args:
            embeds: (G, N, C).
            points: (G, P, 2), fractions of the padded image.

        Yields:
            T' of the frames, P' of the points, and their logits (G, T', P', N); here all points.
        """
        weights = self._weights(embeds).mT[:, None]  # (G, 1, R, N)
        G, T, R, pixels = self._planes.shape
        P, N = points.shape[1], weights.shape[-1]
        h, w = self.shape[1:]
        x, y, parts = neighbours(points, h, w)  # (G, P, 4)
        places, parts = (y * w + x)[:, None], parts[:, None]
        few = pixels >= FEW * P
        together = max(1, AT_ONCE // (G * (P * R if few else pixels * N)))
        for frames in (slice(first, first + together) for first in range(0, T, together)):
            table = self._planes[:, frames].mT  # (G, T', h * w, R)
            if not few:
                table = table @ weights
            count = table.shape[1]
            table = table.flatten(0, 2)  # a pixel's values side by side: a point is four rows
            starts = torch.arange(G * count, device=points.device).view(G, count, 1, 1) * pixels
            rows = places + starts  # (G, T', P, 4)
            values = weighted_rows(table, rows, parts.expand_as(rows))
            yield frames, slice(None), values @ weights if few else values

    def _weights(self, embeds: Tensor) -> Tensor:
        """What `_planes` are multiplied with, (..., C) to (..., R)."""
        own = self.clips[0].own
        if own is None:
            return self._coded(embeds)
        number, channels = own.shape[1:]
        coded, others = self._coded(embeds[..., :channels]), embeds[..., channels:]
        return torch.cat([coded, F.pad(others, (0, number - others.shape[-1]))], dim=-1)

    def _coded(self, embeds: Tensor) -> Tensor:
        weights, bias = project(embeds, self.codec)
        return weights if bias is None else torch.cat([weights, bias[..., None]], dim=-1)

    def _own(self) -> Tensor | None:
        """What the coded channels make the video queries' mask logits with, (G, T, N_v, R')."""
        own = [clip.own for clip in self.clips]
        return None if own[0] is None else self._coded(torch.stack(own))

    @cached_property
    def _planes(self) -> Tensor:
        """z: the values times their scales, (G, T, R, h * w) float32.

        The mean of a basis is one channel more, which is 1 everywhere; R counts it here, and the
        mask logits of video queries.

        Of small clips a pixel's values lie side by side: points are read four times faster then,
        and maps a little slower. Large clips stay as stored, for it takes long to turn them.
        """
        first = self.clips[0].stored["values"]
        T, stored, h, w = first.shape
        own, coded = self._own(), stored + (self.codec.basis is not None)
        R = coded + (0 if own is None else own.shape[2])
        small = first.numel() <= SMALL
        # Whoever asks first may want no gradients; a segmenter in training needs them.
        with torch.enable_grad():
            shape = (len(self.clips), T, *((h, w, R) if small else (R, h, w)))
            made = empty(shape, first.device)
            planes = made.permute(0, 1, 4, 2, 3) if small else made  # (G, T, R, h, w)
            for g, clip in enumerate(self.clips):
                values = clip.stored["values"]
                if small:  # codes are turned before they become float32: fewer bytes move
                    values = values.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
                for t in range(T):  # a frame is still in the cache when it is scaled
                    planes[g, t, :stored].copy_(values[t])
                    if self.codec.scaled:
                        planes[g, t, :stored].mul_(clip.stored["scales"][t][:, None, None])
            planes[:, :, stored:coded] = 1.0
            planes = planes.flatten(3)
            if own is not None:
                planes[:, :, coded:] = own @ planes[:, :, :coded]
            return planes


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
