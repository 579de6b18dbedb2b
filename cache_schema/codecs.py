"""Codecs of the mask features: how they are stored, and how mask logits come from what is stored.

A codec defines the stored arrays of a frame, encodes frames into them, and computes mask logits
from them without expanding them first. NumPy is the reference that any other implementation is
tested against.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from cache_schema.cli import InputError


def narrow(array: np.ndarray, dtype: np.dtype | type | str) -> np.ndarray:
    """Cast to ``dtype``, contiguous, refusing what would not come back as a finite number.

    Raises:
        InputError: NaN or infinite values, or values beyond the range of ``dtype``.
    """
    array, dtype = np.asarray(array), np.dtype(dtype)
    with np.errstate(over="ignore"):
        narrowed = np.ascontiguousarray(array, dtype)
    if dtype.kind == "f" and not np.isfinite(narrowed).all():
        if not np.isfinite(array).all():
            raise InputError("it holds NaN or infinite values")
        raise InputError(
            f"it reaches {np.abs(array).max():.6g}, beyond the largest {dtype.name} "
            f"{np.finfo(dtype).max:.6g}; use codec 'float32'"
        )
    return narrowed


@dataclass(frozen=True)
class Codec:
    """Mask features stored as they are, in one floating point type.

    Attributes:
        name: the codec's name in configs, shards and fingerprints.
        dtype: of the stored mask features.
        query_dtype: of every other feature in the same cache (queries, embeddings, words).
    """

    name: str
    dtype: np.dtype
    query_dtype: np.dtype

    def layout(self, channels: int, h: int, w: int) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        """Name, shape and dtype of each array stored for one frame."""
        return {"values": ((channels, h, w), self.dtype)}

    def encode(self, features: np.ndarray) -> dict[str, np.ndarray]:
        """Code mask features (t, C, h, w) float32; each result has the same leading t.

        Raises:
            InputError: NaN or infinite values, or values beyond the stored type.
        """
        return {"values": narrow(features, self.dtype)}

    def describe(self) -> dict[str, str]:
        """What identifies the codec, for the fingerprint."""
        return {"name": self.name, "dtype": self.dtype.name}

    def mask_logits(self, stored: Mapping[str, np.ndarray], embeds: np.ndarray) -> np.ndarray:
        """Mask logits of embeddings over coded frames.

        Args:
            stored: the coded arrays of t frames; ``values`` is (t, C, h, w).
            embeds: (N, C) mask embeddings.

        Returns:
            (t, N, h, w) float32. Every frame is a product of its own, so that the result does not
            depend on how many frames are read at once.
        """
        values = stored["values"]
        t, channels, h, w = values.shape
        embeds = np.asarray(embeds, np.float32)
        logits = np.empty((t, len(embeds), h * w), np.float32)
        for frame, out in zip(values, logits, strict=True):
            # (N, C) @ (C, h*w) -> (N, h*w)
            np.matmul(embeds, frame.reshape(channels, h * w).astype(np.float32), out=out)
        return logits.reshape(t, len(embeds), h, w)


# float32 stores every feature as float32, so that a replay is exact.
CODECS = {name: Codec(name, np.dtype(name), np.dtype(name)) for name in ("float32", "float16")}


def get_codec(name: str) -> Codec:
    """The codec of a name; `InputError` when there is none."""
    if name not in CODECS:
        raise InputError(f"unknown codec {name!r}; known codecs are {', '.join(CODECS)}")
    return CODECS[name]
