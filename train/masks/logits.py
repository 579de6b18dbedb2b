"""Mask logits in the coded space of the cache: the torch side of `cache_schema.codecs`.

A codec's affine map is applied to the mask embeddings, which are few, and not to the mask
features, so the C channels are never made and a product has only R:

    F.e ~ (mean + decoder^T z).e = mean.e + z.(decoder e),    z = scale * values
"""

from collections.abc import Mapping
from copy import copy
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from cache_schema.codecs import Codec


def project(embeds: Tensor, codec: Codec) -> tuple[Tensor, Tensor | None]:
    """Mask embeddings in the coded space, differentiable.

    Args:
        embeds: (..., C).

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
    """The mask features of one clip, coded.

    Args:
        stored: as for `mask_logits`.

    Attributes:
        own: mask embeddings of the video queries in each frame, (T, N_v, C), whose logits are
            channels beside the others; None where there are none.
    """

    own: Tensor | None = None

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

    def beside(self, own: Tensor) -> "MaskFeatures":
        """The same features with the mask logits of the video queries beside them."""
        other = copy(self)
        other.own = own
        return other
