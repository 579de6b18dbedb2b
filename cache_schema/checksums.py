"""Checksums of datasets and of whole videos, and what they say of damage."""

import hashlib
import json
import math
import zlib
from collections.abc import Iterable
from functools import lru_cache, reduce
from operator import xor

import h5py
import numpy as np

from cache_schema.host import system
from cache_schema.host.cli import InputError
from cache_schema.nodes import rows, scalar, values, walk, where

CRC = "crc32"
PIECE = 1 << 24  # bytes that are read at a time


def crc32(dataset: h5py.Dataset) -> int:
    """CRC-32 of a dataset's values, C order, as stored; read piece by piece, chunks by frame."""
    shape, chunks = dataset.shape, dataset.chunks  # h5py asks HDF5 anew each time
    size = math.prod(shape) * dataset.dtype.itemsize
    if not size:
        return 0
    crc = 0
    if chunks == (1, *shape[1:]):
        for row in rows(dataset):
            crc = zlib.crc32(row, crc)
        return crc
    if size <= PIECE:
        return zlib.crc32(values(dataset))
    step = max(1, PIECE * shape[0] // size)
    for start in range(0, shape[0], step):
        crc = zlib.crc32(np.ascontiguousarray(values(dataset, slice(start, start + step))), crc)
    return crc


def joined(crcs: Iterable[int], size: int) -> int:
    """CRC-32 of pieces one after the other, from that of each; all of ``size`` bytes."""
    shift, crc = _shift(size), 0
    for own in crcs:
        crc = own ^ _applied(shift, crc)
    return crc


@lru_cache
def _shift(size: int) -> list[int]:
    """What ``size`` more bytes make of each bit of a CRC-32, which is linear over bits."""
    if size < 2:
        more = bytes(size)
        return [zlib.crc32(more, 1 << k) ^ zlib.crc32(more) for k in range(32)]
    return [_applied(_shift(size - size // 2), bits) for bits in _shift(size // 2)]


def _applied(shift: list[int], crc: int) -> int:
    return reduce(xor, (bits for k, bits in enumerate(shift) if crc >> k & 1), 0)


class Structure:
    """SHA-256 of a video's structure: paths, attributes (with each crc32), types, shapes.

    The values themselves enter through the ``crc32`` attributes, so this is cheap.
    """

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def add(self, path: str, node: h5py.Group | h5py.Dataset) -> dict[str, int | str]:
        """Take in what `walk` yields, in its order; returns its attributes."""
        attributes = {name: _plain(node, name) for name in sorted(node.attrs)}
        is_data = isinstance(node, h5py.Dataset)
        kind = [node.dtype.str, list(node.shape)] if is_data else None
        line = json.dumps([path, kind, attributes], sort_keys=True)
        self._digest.update(line.encode() + b"\n")
        return attributes

    def checksum(self) -> str:
        """The digest (hex) of what was taken in."""
        return self._digest.hexdigest()


def _plain(node: h5py.Group | h5py.Dataset, name: str) -> int | str:
    value = scalar(node, name)
    if not isinstance(value, int | str):
        raise InputError(f"{where(node)}: attribute {name!r} is neither a whole number nor text")
    return value


def damages(video: h5py.Group, expected: str | None, *, data: bool = True) -> list[str]:
    """What is wrong with a video: nothing when it is sound.

    Args:
        expected: the checksum its manifest line gives; None leaves that test out.
        data: read the values and compare them with their checksums.

    Raises:
        SystemTrouble, MemoryError: it cannot be told.
    """
    found, structure = [], Structure()
    try:
        for path, node in walk(video):
            attributes = structure.add(path, node)
            if data and isinstance(node, h5py.Dataset) and crc32(node) != attributes.get(CRC):
                found.append(f"{path}: its bytes do not match its checksum")
        if data:
            # HDF5's own bookkeeping, which our reading leaves alone but other programs do not.
            h5py.h5o.visit(video.id, lambda name: None)
        if expected is not None and structure.checksum() != expected:
            found.append("its names, shapes or attributes do not match the manifest's checksum")
    except InputError as error:
        found.append(str(error))
    except (system.SystemTrouble, MemoryError):
        raise
    except Exception as error:  # HDF5 raises all kinds of exceptions on broken metadata.
        system.check(error, where(video))
        found.append(f"cannot be read ({error})")
    return found
