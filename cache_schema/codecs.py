"""Codecs of the mask features: how they are stored, and how mask logits come from what is stored.

Every codec is an affine map of the channels and a number type, so a mask logit is computed from
the stored numbers without expanding them to the C channels first:

    F ~ mean + decoder^T (scale * values)    =>    F.e = mean.e + (scale * values).(decoder e)

NumPy is the reference that any other implementation is tested against.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from cache_schema.host.cli import InputError

LOWRANK = "lowrank-int8"
LEVELS = 127  # int8 is used symmetrically, so that 0 stays 0
SMALLEST = np.finfo(np.float32).tiny  # of scales: smaller ones have no full precision


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


@dataclass(frozen=True, eq=False)
class Basis:
    """The affine map of a low-rank codec: ``z = (F - mean) encoder``, ``F ~ mean + z decoder``.

    Attributes:
        mean: (C,) float32.
        encoder: (C, R) float32.
        decoder: (R, C) float32.
    """

    mean: np.ndarray
    encoder: np.ndarray
    decoder: np.ndarray

    @property
    def rank(self) -> int:
        """R."""
        return len(self.decoder)

    @cached_property
    def sha256(self) -> str:
        """Hex digest of the three arrays, for the fingerprint."""
        digest = hashlib.sha256()
        for array in (self.mean, self.encoder, self.decoder):
            digest.update(np.ascontiguousarray(array, "<f4"))
        return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class Codec:
    """Mask features as numbers of one type, per frame, with or without scales and a basis.

    Attributes:
        name: the codec's name in configs, shards and fingerprints.
        dtype: of the stored values; integers come with one scale a frame and component.
        query_dtype: of every other feature in the same cache (queries, embeddings, words).
        basis: of a low-rank codec; None stores the C channels themselves.
    """

    name: str
    dtype: np.dtype
    query_dtype: np.dtype
    basis: Basis | None = None

    @property
    def scaled(self) -> bool:
        """Values are integers that a scale turns into numbers."""
        return self.dtype.kind == "i"

    def layout(self, channels: int, h: int, w: int) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        """Name, shape and dtype of each array stored for one frame of C = ``channels``."""
        components = self.basis.rank if self.basis else channels
        arrays = {"values": ((components, h, w), self.dtype)}
        if self.scaled:
            arrays["scales"] = ((components,), np.dtype(np.float32))
        return arrays

    def encode(self, features: np.ndarray) -> dict[str, np.ndarray]:
        """Code mask features (t, C, h, w) float32; each result has the same leading t.

        Raises:
            InputError: NaN or infinite values, or values beyond the stored type.
        """
        if not self.scaled:
            return {"values": narrow(features, self.dtype)}
        features = narrow(features, np.float32)
        if self.basis:
            # (R, C) @ (t, C, h*w) -> (t, R, h*w), a product a frame; no centred copy of C channels
            flat = self.basis.encoder.T @ features.reshape(*features.shape[:2], -1)
            flat -= (self.basis.mean @ self.basis.encoder)[:, None]
            features = narrow(flat, np.float32).reshape(len(flat), -1, *features.shape[2:])
        # One scale a frame and component; the scale of one that is all but zero is 0.
        scales = np.abs(features).max(axis=(2, 3)) / np.float32(LEVELS)  # (t, R)
        scales[scales < SMALLEST] = 0
        steps = np.where(scales > 0, scales, 1)[:, :, None, None]
        return {"values": np.rint(features / steps).astype(self.dtype), "scales": scales}

    def describe(self) -> dict[str, Any]:
        """What identifies the codec, for the fingerprint."""
        described = {"name": self.name, "dtype": self.dtype.name}
        if self.basis:
            described |= {"rank": self.basis.rank, "basis_sha256": self.basis.sha256}
        return described

    def project(self, embeds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mask embeddings in the coded space.

        Args:
            embeds: (N, C).

        Returns:
            (N, R) float32 to multiply the (scaled) values with, and (N,) float32 to add.
        """
        embeds = np.asarray(embeds, np.float32)
        if self.basis is None:
            return embeds, np.zeros(len(embeds), np.float32)
        return embeds @ self.basis.decoder.T, embeds @ self.basis.mean

    def mask_logits(self, stored: Mapping[str, np.ndarray], embeds: np.ndarray) -> np.ndarray:
        """Mask logits of embeddings over coded frames.

        Args:
            stored: the coded arrays of t frames; ``values`` is (t, R, h, w).
            embeds: (N, C) mask embeddings.

        Returns:
            (t, N, h, w) float32. Every frame is a product of its own, so that the result does not
            depend on how many frames are read at once.
        """
        values = stored["values"]
        t, components, h, w = values.shape
        weights, bias = self.project(embeds)
        logits = np.empty((t, len(weights), h * w), np.float32)
        for k, (frame, out) in enumerate(zip(values, logits, strict=True)):
            scaled = weights * stored["scales"][k] if self.scaled else weights
            # (N, R) @ (R, h*w) -> (N, h*w)
            np.matmul(scaled, frame.reshape(components, h * w).astype(np.float32), out=out)
        if self.basis:
            logits += bias[:, None]
        return logits.reshape(t, len(weights), h, w)


def _codec(name: str, dtype: str, query_dtype: str = "float16") -> Codec:
    return Codec(name, np.dtype(dtype), np.dtype(query_dtype))


# float32 stores every feature as float32, so that a replay is exact.
CODECS = {
    codec.name: codec
    for codec in (
        _codec("float32", "float32", "float32"),
        _codec("float16", "float16"),
        _codec("int8", "int8"),
        _codec(LOWRANK, "int8"),
    )
}


def get_codec(name: str, basis: Basis | None = None) -> Codec:
    """The codec of a name.

    Args:
        name: one of `CODECS`.
        basis: what ``lowrank-int8`` needs, and no other codec takes.

    Raises:
        InputError: there is no such codec, or a basis is missing or not wanted.
    """
    if name not in CODECS:
        raise InputError(f"unknown codec {name!r}; known codecs are {', '.join(CODECS)}")
    if (basis is not None) != (name == LOWRANK):
        raise InputError(f"codec {name!r} {'needs a' if name == LOWRANK else 'has no'} basis")
    codec = CODECS[name]
    return Codec(name, codec.dtype, codec.query_dtype, basis) if basis else codec
