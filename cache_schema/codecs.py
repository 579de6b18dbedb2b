"""Codecs of the mask features: how they are stored, and how mask logits come from what is stored.

Every codec is an affine map of the channels and a number type, so a mask logit is computed from
the stored numbers without expanding them to the C channels first:

    F ~ mean + decoder^T (scale * values)    =>    F.e = mean.e + (scale * values).(decoder e)

NumPy is the reference that any other implementation is tested against. What a reader needs of a
codec is declared, `Codec.declare` and the basis, and lies in every shard; so nobody who only reads
needs the program that coded.

A codec of one's own is a `Codec` in a module of one's own, ``"my_package.my_module:NAME"`` in
configs. It declares its number type, and may be of a subclass that says

- ``for_channels``: a fixed affine map for the segmenter's channels, or
- ``encode``: another way to choose codes and scales, in NumPy.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import import_module
from typing import Any

import numpy as np

from cache_schema.host.cli import InputError
from cache_schema.records import sha256

LOWRANK = "lowrank-int8"
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
        return sha256((self.mean, self.encoder, self.decoder))


@dataclass(frozen=True, eq=False)
class Codec:
    """Mask features as numbers of one type, per frame, with or without scales and a basis.

    Attributes:
        name: the codec's name in configs, shards and fingerprints.
        dtype: of the stored values; integers come with one scale a frame and component. None
            stores no mask features.
        query_dtype: of every other feature in the same cache (queries, embeddings, words).
        basis: of a low-rank codec; None stores the C channels themselves.
        fitted: the basis is fitted to a sample of the data set.
    """

    name: str
    dtype: np.dtype | None
    query_dtype: np.dtype
    basis: Basis | None = None
    fitted: bool = False

    @property
    def scaled(self) -> bool:
        """Values are integers that a scale turns into numbers."""
        return self.dtype is not None and self.dtype.kind == "i"

    @property
    def levels(self) -> int:
        """The largest code; integers are used symmetrically, so that 0 stays 0."""
        return int(np.iinfo(self.dtype).max)

    def for_channels(self, channels: int) -> "Codec":
        """The codec of mask features with so many channels; one with a fixed basis sets it here."""
        return self

    def declare(self) -> dict[str, str | None]:
        """What has to be known to read: types by name."""
        dtype = self.dtype.name if self.dtype else None
        return {"dtype": dtype, "query_dtype": self.query_dtype.name}

    def layout(self, channels: int, h: int, w: int) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        """Name, shape and dtype of each array stored for one frame of C = ``channels``."""
        if self.dtype is None:
            return {}
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
        if self.dtype is None:
            return {}
        features = narrow(features, np.float32)
        if self.basis:
            # (R, C) @ (t, C, h*w) -> (t, R, h*w), a product a frame; no centred copy of C channels
            flat = self.basis.encoder.T @ features.reshape(*features.shape[:2], -1)
            flat -= (self.basis.mean @ self.basis.encoder)[:, None]
            features = narrow(flat, np.float32).reshape(len(flat), -1, *features.shape[2:])
        if not self.scaled:
            return {"values": narrow(features, self.dtype)}
        # One scale a frame and component; the scale of one that is all but zero is 0.
        scales = np.abs(features).max(axis=(2, 3)) / np.float32(self.levels)  # (t, R)
        scales[scales < SMALLEST] = 0
        steps = np.where(scales > 0, scales, 1)[:, :, None, None]
        return {"values": np.rint(features / steps).astype(self.dtype), "scales": scales}

    def describe(self) -> dict[str, Any]:
        """What identifies the codec, for the fingerprint."""
        described = {"name": self.name, "dtype": self.declare()["dtype"]}
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


def _codec(name: str, dtype: str | None, query_dtype: str = "float16", **settings: bool) -> Codec:
    return Codec(name, dtype and np.dtype(dtype), np.dtype(query_dtype), **settings)


# float32 stores every feature as float32, so that a replay is exact.
CODECS = {
    codec.name: codec
    for codec in (
        _codec("float32", "float32", "float32"),
        _codec("float16", "float16"),
        _codec("int8", "int8"),
        _codec(LOWRANK, "int8", fitted=True),
    )
}
# Of light caches: stores no mask features.
LIGHT = _codec("none", None)


KNOWN = {**CODECS, LIGHT.name: LIGHT}


def get_codec(name: str, basis: Basis | None = None) -> Codec:
    """The codec of a name, to code with.

    Args:
        name: one of `KNOWN`, or ``"my_package.my_module:NAME"`` for a `Codec` of one's own.
        basis: what a fitted codec needs, and no other takes.

    Raises:
        InputError: there is no such codec, or a basis is missing or not wanted.
    """
    codec = KNOWN.get(name) or _imported(name)
    if (basis is not None) != codec.fitted:
        raise InputError(f"codec {name!r} {'needs a' if codec.fitted else 'has no'} basis")
    return replace(codec, basis=basis) if basis else codec


def _imported(name: str) -> Codec:
    module, _, attribute = name.partition(":")
    if not attribute:
        raise InputError(
            f"unknown codec {name!r}; known codecs are {', '.join(KNOWN)}, and "
            "'my_package.my_module:NAME' is one of your own"
        )
    try:
        codec = getattr(import_module(module), attribute)
    except (Exception, SystemExit) as error:  # whatever a module from outside may raise
        raise InputError(f"codec {name!r} cannot be imported: {error!r}") from error
    if not isinstance(codec, Codec):
        raise InputError(f"{name!r} is no cache_schema.codecs.Codec, but {type(codec).__name__}")
    return replace(codec, name=name)


def declared_codec(name: str, declared: Any, basis: Basis | None) -> Codec:
    """The codec that a shard declares, to read with; nothing is imported for it.

    Args:
        name: of the codec, any.
        declared: from `Codec.declare`, as data from outside.
        basis: what the shard holds.

    Raises:
        InputError: it declares something else than types that can be read.
    """
    match declared:
        case {"dtype": str() | None as dtype, "query_dtype": "float16" | "float32" as query}:
            known = KNOWN.get(name)
            if known and known.declare() == declared and basis is None:
                return known
            if dtype in (None, "float16", "float32", "int8", "int16"):
                return Codec(name, dtype and np.dtype(dtype), np.dtype(query), basis)
    raise InputError(f"codec {name!r} declares {declared!r}, which this program cannot read")
