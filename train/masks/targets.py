"""True masks: what a sample's are, and their values at points for many samples at once."""

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor


@dataclass
class Targets:
    """The true masks of one sample.

    Attributes:
        masks: (M, T, H, W) uint8 at original size; M may be 0.
        labels: (M,) int64 classes; zeros where there is one class only.
        extent: (x, y) fractions of the padded image that the image fills.
    """

    masks: Tensor
    labels: Tensor
    extent: tuple[float, float] = (1.0, 1.0)

    def to(self, device: torch.device | str) -> "Targets":
        """The same targets on another device."""
        return Targets(self.masks.to(device), self.labels.to(device), self.extent)


class TargetStack:
    """The true masks of G samples with equal numbers of frames, of one size or not.

    The image fills only the upper left part of the padded one, the rest is zero. Resizing keeps
    fractions of the image, so a point of the padded image, divided by that part's extent, is a
    point of the original mask.

    Args:
        samples: at least one target each.

    Attributes:
        counts: M of each row; a row is a sample, or a sample for one of several heads.
        firsts: the number of each row's first target among all.
        labels: (G, largest M) int64 of each row, zeros at the end.
    """

    def __init__(self, samples: Sequence[Targets]) -> None:
        device, self.frames = samples[0].masks.device, samples[0].masks.shape[1]
        sizes = np.array([sample.masks.shape[:1:-1] for sample in samples])  # (G, 2), W and H
        self._samples = samples
        self._size = width, height = tuple(sizes.max(axis=0).tolist())
        self._column = height + 3  # of `_pixels`
        self._stride = (width + 3) * self._column  # pixels of a target
        counts = [len(sample.masks) for sample in samples]
        self._clips = _sent(np.repeat(np.arange(len(samples)), counts), device)  # of each target
        extents = np.array([sample.extent for sample in samples], np.float32)
        self._scales = _sent(np.float32(sizes) / extents, device)  # (G, 2)
        self._arrange(1)

    def _arrange(self, heads: int) -> None:
        """What depends on how many rows each sample has."""
        device = self._clips.device
        own = np.array([len(sample.masks) for sample in self._samples])
        counts, firsts = (each.repeat(heads) for each in (own, own.cumsum() - own))
        self.counts, self.firsts = counts.tolist(), firsts.tolist()
        self.labels = torch.nn.utils.rnn.pad_sequence(
            [sample.labels for sample in self._samples], batch_first=True
        )
        self._row_scales = self._scales
        if heads > 1:
            self.labels, self._row_scales = (
                each.repeat_interleave(heads, dim=0) for each in (self.labels, self._scales)
            )
        # Row, slot in it and number of each target of each row.
        rows = np.repeat(np.arange(len(counts)), counts)
        slots = np.arange(len(rows)) - (counts.cumsum() - counts)[rows]
        self._rows, self._slots, self._numbers = _sent(
            np.stack([rows, slots, firsts[rows] + slots]), device
        )

    def repeated(self, heads: int) -> "TargetStack":
        """The same targets for several heads: a row of each sample for each head."""
        _ = self._pixels  # which all share
        other = copy(self)
        other._arrange(heads)
        return other

    def shared(self, points: Tensor) -> Tensor:
        """Values of all targets at points of their sample, the same in every frame.

        Args:
            points: (G, P, 2), fractions of the padded image.

        Returns:
            (G, T, P, largest M); zeros for targets that a sample does not have.
        """
        pixels, x, y = self._corner(points, self._row_scales[:, None])  # (G, P)
        starts = (self._numbers * self._stride)[:, None] + pixels[self._rows]  # (all M, P)
        rows = self._pixels.view(-1, self.frames)
        corners = [
            rows[step:].index_select(0, starts.flatten()).view(*starts.shape, -1).float()
            for step in self._steps
        ]
        values = _bilinear(
            corners, x[self._rows][..., None], y[self._rows][..., None]
        )  # (all M, P, T)
        shape = (len(points), *values.shape[1:], self.labels.shape[1])
        padded = values.new_zeros(shape)
        padded[self._rows, :, :, self._slots] = values
        return padded.transpose(1, 2)

    def own(self, targets: Tensor, points: Tensor) -> Tensor:
        """Values of some targets at points of their own in every frame.

        Args:
            targets: (I,) int64, numbers among all targets.
            points: (I, T, P, 2), fractions of the padded image.

        Returns:
            (I, T, P).
        """
        scales = self._scales[self._clips[targets]][:, None, None]  # (I, 1, 1, 2)
        pixels, x, y = self._corner(points, scales)  # (I, T, P)
        frames = torch.arange(self.frames, device=points.device)
        first = (targets * self._stride * self.frames)[:, None] + frames  # (I, T)
        starts = (pixels * self.frames + first[:, :, None]).flatten()
        flat = self._pixels.view(-1)
        corners = [
            flat[step * self.frames :].gather(0, starts).view(pixels.shape).float()
            for step in self._steps
        ]
        return _bilinear(corners, x, y)

    @cached_property
    def _pixels(self) -> Tensor:
        """The masks of all samples, (all M, W + 3, H + 3, T) uint8.

        Of each pixel all frames side by side, for a point is read in all of them. Columns stay
        whole, as they lie in memory where they come from runs. Zeros around a mask stand for all
        that is outside.
        """
        shape = (len(self._clips), self._size[0] + 3, self._column, self.frames)
        pixels = self._samples[0].masks.new_zeros(shape)
        first = 0
        for own in self._samples:
            masks = own.masks.permute(0, 3, 2, 1)  # (M, W, H, T)
            _, width, height, _ = masks.shape
            pixels[first : first + len(masks), 1 : width + 1, 1 : height + 1].copy_(masks)
            first += len(own.masks)
        return pixels

    @property
    def _steps(self) -> tuple[int, int, int, int]:
        """From the first of the four pixels around a point to each, column by column."""
        return 0, 1, self._column, self._column + 1

    def _corner(self, points: Tensor, scales: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The first of the four pixels around each point (..., 2), and how far it is from there.

        Returns:
            The pixel's number, int64, and x and y from 0 to 1, all (...).
        """
        axes = []
        for axis in (0, 1):  # each on its own, for arrays with gaps are several times slower
            places = points[..., axis] * scales[..., axis]
            places -= 0.5
            first = places.floor()
            places -= first
            first += 1.0
            axes.append((first.clamp_(0.0, self._size[axis] + 1.0).long(), places))
        (column, x), (row, y) = axes
        return column.mul_(self._column).add_(row), x, y


def _sent(array: np.ndarray, device: torch.device) -> Tensor:
    """On the device, without waiting for what it is at."""
    return torch.from_numpy(array).to(device, non_blocking=True)


def _bilinear(corners: Sequence[Tensor], x: Tensor, y: Tensor) -> Tensor:
    """Values between four pixels, column by column, at x and y of the way."""
    left, right = corners[0].lerp_(corners[1], y), corners[2].lerp_(corners[3], y)
    return left.lerp_(right, x)
