"""Mask logits on a GPU, in training: as `train.masks.stack.MaskStack`, in few large operations.

Of a pixel the values of all frames lie side by side, for points are the same in every frame, and a
point is then a weighted sum of four long rows. All clips of a size go together.
"""

from collections.abc import Iterator, Sequence
from copy import copy
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from train.masks.bilinear import neighbours
from train.masks.stack import MaskStack, weighted_rows

LOGITS = 2**27
"""Logits that are made together."""

ALIGNED = 4
"""Numbers of a row are a multiple of this, for loads of 16 bytes."""

PARTS = 128
"""Long sums are made in at most so many parts, for which there are processors enough."""


class MaskTables(MaskStack):
    """The mask features of G clips as tables of pixels.

    Args:
        clips: at least one, all of one size and codec.

    Attributes:
        heads: rows of embeddings that each clip has, one after the other.
    """

    heads = 1

    def repeated(self, heads: int) -> "MaskTables":
        """The same features for several heads, each of which brings its own embeddings."""
        _ = self._tables  # which all share
        other = copy(self)
        other.heads = heads
        return other

    def logits(self, embeds: Tensor, counts: Sequence[int]) -> Tensor:
        """See `MaskStack.logits`."""
        T, h, w = self.shape
        each = [sum(counts[g : g + self.heads]) for g in range(0, len(counts), self.heads)]
        weights = self._weights(embeds).split(each)
        maps = [
            _product(own, table.flatten(0, 1))  # (I', h * w * T)
            for own, table in zip(weights, self._tables, strict=True)
        ]
        return torch.cat(maps).unflatten(1, (h, w, T)).permute(0, 3, 1, 2)

    @torch.no_grad()
    def read(self, embeds: Tensor, points: Tensor) -> Iterator[tuple[slice, slice, Tensor]]:
        """See `MaskStack.read`; here a point's frames follow each other in memory."""
        weights = self._weights(embeds).mT  # (rows, R, N)
        tables = self._tables
        G, pixels, T, R = tables.shape
        (rows, P), N = points.shape[:2], weights.shape[-1]
        h, w = self.shape[1:]
        x, y, shares = neighbours(points, h, w)  # (rows, P, 4)
        clips = torch.arange(rows, device=points.device) // self.heads
        places = y * w + x + (clips * pixels)[:, None, None]  # (rows, P, 4)
        # The bytes that are gathered decide: R numbers of a frame, or N, which are each head's own.
        few = R <= N or self.heads > 1
        if not few:
            tables = tables.flatten(1, 2) @ weights  # (G, h * w * T, N)
        tables = tables.reshape(G * pixels, -1)
        step = max(1, LOGITS // (rows * T * N))
        step = step // PARTS * PARTS or step
        for block in (slice(first, first + step) for first in range(0, P, step)):
            values = weighted_rows(tables, places[:, block], shares[:, block])
            values = values.unflatten(2, (T, -1)).flatten(1, 2)  # (rows, P' * T, R or N)
            values = (values @ weights if few else values).unflatten(1, (-1, T))
            yield slice(0, T), block, values.transpose(1, 2)

    def _weights(self, embeds: Tensor) -> Tensor:
        weights = super()._weights(embeds)
        return F.pad(weights, (0, -weights.shape[-1] % ALIGNED))

    @cached_property
    def _tables(self) -> Tensor:
        """z of `MaskStack`, (G, h * w, T, R) float32; R with zeros up to a multiple."""
        values = torch.stack([clip.stored["values"] for clip in self.clips]).flatten(3)
        G, T, stored, pixels = values.shape
        own, coded = self._own(), stored + (self.codec.basis is not None)
        R = coded + (0 if own is None else own.shape[2])
        with torch.enable_grad():  # see `MaskStack`
            tables = values.new_zeros((G, pixels, T, R + -R % ALIGNED), dtype=torch.float32)
            turned = values.permute(0, 3, 1, 2)  # (G, h * w, T, R)
            if self.codec.scaled:
                scales = torch.stack([clip.stored["scales"] for clip in self.clips])
                torch.mul(turned, scales[:, None], out=tables[..., :stored])
            else:
                tables[..., :stored] = turned
            tables[..., stored:coded] = 1.0
            if own is not None:
                made = tables[..., :coded].transpose(1, 2) @ own.mT  # (G, T, h * w, N_v)
                tables[..., coded:R] = made.transpose(1, 2)
        return tables


def _product(weights: Tensor, table: Tensor) -> Tensor:
    """Weights (I, R) times a table (n, R), transposed: (I, n)."""
    return weights @ table.mT if table.requires_grad else _Product.apply(weights, table)


class _Product(torch.autograd.Function):
    """The product, whose gradient is a few very long sums: libraries make each in one go."""

    @staticmethod
    def forward(ctx: Any, weights: Tensor, table: Tensor) -> Tensor:
        ctx.table = table
        return weights @ table.mT

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        parts = parts_of(len(ctx.table))
        columns = gradient.unflatten(1, (parts, -1)).transpose(0, 1)  # (parts, I, n / parts)
        return (columns @ ctx.table.unflatten(0, (parts, -1))).sum(dim=0), None


def parts_of(count: int) -> int:
    """The largest power of two up to `PARTS` that divides a number."""
    return min(count & -count, PARTS) if count else 1
