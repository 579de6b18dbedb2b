"""Mask logits in the coded space of the cache: the torch side of `cache_schema.codecs`.

Both supported codecs, ``float32`` and ``float16``, store the mask features themselves, so a logit
is a plain dot product in float32.
"""

from collections.abc import Mapping
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from cache_schema.cli import InputError
from train.losses.points import sample

CODECS = ("float32", "float16")


def _values(stored: Mapping[str, Tensor | np.ndarray], codec: str) -> Tensor:
    if codec not in CODECS:
        raise InputError(f"the mask features are coded as {codec!r}; known are {', '.join(CODECS)}")
    return torch.as_tensor(stored["values"])


def mask_logits(stored: Mapping[str, Tensor | np.ndarray], embeds: Tensor, *, codec: str) -> Tensor:
    """Mask logits of some frames, Eq. (10).

    One matrix product a frame, with the operands in this order and layout: stage one computes
    its masks in the same form, so from a float32 cache both give the same bits.

    Args:
        stored: the coded frames as the cache holds them, ``values`` (t, C, h, w), t >= 1, on the
            device of ``embeds`` if they are tensors.
        embeds: (N, C) float32.
        codec: the cache's codec name.

    Returns:
        (t, N, h, w) float32.

    Raises:
        InputError: the codec is unknown.
    """
    frames = []
    for frame in _values(stored, codec).to(embeds.device):
        flat = frame.float().flatten(1)  # (C, h * w)
        frames.append((embeds @ flat).unflatten(1, frame.shape[1:]))  # (N, h, w)
    return torch.stack(frames)


class MaskFeatures:
    """The mask features of one clip, for training: one matrix product gives all its frames.

    They stay coded until the first logits are asked for, so that little travels to the device.

    Args:
        stored: as for `mask_logits`.
        codec: the cache's codec name.

    Raises:
        InputError: the codec is unknown.
    """

    def __init__(self, stored: Mapping[str, Tensor | np.ndarray], codec: str) -> None:
        self.codec = codec
        self.values = _values(stored, codec)  # (T, C, h, w)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(T, h, w)."""
        frames, _, height, width = self.values.shape
        return frames, height, width

    def to(self, device: torch.device | str) -> "MaskFeatures":
        """The same features on another device."""
        return MaskFeatures({"values": self.values.to(device)}, self.codec)

    def logits(self, embeds: Tensor) -> Tensor:
        """Mask logits of all frames, differentiable: (N, C) to (N, T, h, w)."""
        return (embeds @ self._flat).unflatten(1, self.shape)

    @cached_property
    def _flat(self) -> Tensor:
        by_channel = self.values.transpose(0, 1)  # (C, T, h, w)
        return by_channel.to(torch.float32, memory_format=torch.contiguous_format).flatten(1)

    def at(self, embeds: Tensor, points: Tensor) -> Tensor:
        """Mask logits at points of every frame.

        Interpolation and the product with an embedding commute: with few points the features are
        interpolated and the maps are never made.

        Args:
            embeds: (N, C).
            points: (1, P, 2), fractions of the padded image.

        Returns:
            (N, T * P).
        """
        _, h, w = self.shape
        if 2 * points.shape[1] > h * w:
            return sample(self.logits(embeds).flatten(0, 1), points).view(len(embeds), -1)
        features = sample(self._flat.view(-1, h, w), points)  # (C * T, P)
        return embeds @ features.view(len(self._flat), -1)  # (N, T * P)
