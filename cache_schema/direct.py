"""Where a dataset's rows lie in its file, and a file read at those places, past HDF5.

A row is one index of the first axis: a frame, a clip. HDF5 is asked once where the rows are; from
then on they are read with `os.preadv` straight into the array that is wanted, outside HDF5's
global lock and Python's. Shards are data from outside: nothing is read, and no array is as large,
as what the file holds.
"""

import math
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from cache_schema.address import Address, Place
from cache_schema.blocks import RemoteFile
from cache_schema.host import system
from cache_schema.host.cli import InputError
from cache_schema.nodes import chunk_starts, known_type, readable, where
from cache_schema.shard import missing


@dataclass(frozen=True, slots=True)
class Extent:
    """A dataset in its file.

    Attributes:
        shape: rows first.
        dtype: of the stored numbers.
        starts: offset in bytes of the first row, the others follow; or of each row (int64).
        crcs: CRC-32 of each row, or one of all that is read in one piece; None if unknown.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    starts: int | np.ndarray
    crcs: np.ndarray | None = None

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Of one row."""
        return self.shape[1:]

    @property
    def row_bytes(self) -> int:
        """Of one row."""
        return math.prod(self.shape[1:]) * self.dtype.itemsize

    def start(self, row: int) -> int:
        """Offset of a row in bytes."""
        if isinstance(self.starts, int):
            return self.starts + row * self.row_bytes
        return int(self.starts[row])


def locate(dataset: h5py.Dataset, file_size: int) -> Extent:
    """Where a dataset lies that has been checked by `nodes.child`; its checksums are not looked at.

    Raises:
        InputError: it is not stored as the format says (rows one after the other, or in chunks of
            one row each), or not inside the file.
    """
    with readable(dataset):
        # h5py asks HDF5 anew each time an attribute of a dataset is looked at.
        shape, (dtype, _, plain) = dataset.shape, known_type(dataset.id)
        size = math.prod(shape) * dtype.itemsize
        # HDF5 would convert; bytes that are read as they are have to be the numbers themselves.
        if not plain:
            raise InputError(f"{where(dataset)} does not hold plain {dtype} numbers")
        starts: int | np.ndarray | None = dataset.id.get_offset()  # None of chunks and of nothing
        if starts is not None:
            first, end = starts, starts + size
        elif (chunks := dataset.chunks) is None and not size:
            starts = first = end = 0
        elif chunks == (1, *shape[1:]) and size:
            starts = chunk_starts(dataset.id, size // shape[0])
            first, end = starts.min(), starts.max() + size // shape[0]
        if starts is None or first < 0:
            raise InputError(
                f"{where(dataset)} is stored neither in one piece nor in chunks of one frame"
            )
        # Rows may claim the same place: their sum has to fit, too, or a small file could ask for
        # all the memory there is.
        if max(end, size) > file_size:
            raise InputError(f"{where(dataset)} reaches beyond the {file_size} bytes of its file")
        return Extent(shape, dtype, starts)


class RandomAccessFile:
    """A file that any thread reads at any place; closed when nothing refers to it any more.

    Attributes:
        size: in bytes.
        identity: the file behind the path; another one when it was replaced or written to.

    Raises:
        UnreadableShard: it is missing.
        SystemTrouble: it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = -1
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            system.check(error, path)
            raise missing(path) from error
        status = os.fstat(self._descriptor)
        self.size = status.st_size
        self.identity = _identity(status)

    def __del__(self) -> None:
        if self._descriptor >= 0:
            with suppress(OSError):
                os.close(self._descriptor)

    @property
    def is_current(self) -> bool:
        """Whether the path still leads to the file that is open."""
        try:
            return _identity(os.stat(self.path)) == self.identity
        except OSError:
            return False

    def read(self, start: int, out: np.ndarray) -> None:
        """Fill an array from an offset on.

        Args:
            start: in bytes.
            out: (n,) uint8, contiguous.

        Raises:
            InputError: the file ends before.
            SystemTrouble: it cannot be read.
        """
        done = 0
        while done < len(out):
            try:
                got = os.preadv(self._descriptor, [out[done:]], start + done)
            except OSError as error:
                system.check(error, self.path)
                raise
            if got == 0:
                raise InputError(f"{self.path} has been cut short: run verify")
            done += got


def open_file(path: Place) -> RandomAccessFile | RemoteFile:
    """A shard to be read at any place; `UnreadableShard` if it is missing."""
    if not isinstance(path, Address):
        return RandomAccessFile(path)
    try:
        return RemoteFile(path)
    except FileNotFoundError as error:
        raise missing(path) from error


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def as_bytes(array: np.ndarray, shape: Sequence[int], dtype: np.dtype) -> np.ndarray:
    """The memory of an array that is to be read into, as (rows, bytes of a row) uint8.

    Raises:
        ValueError: another shape or type, not contiguous, or read-only.
    """
    if array.shape != tuple(shape) or array.dtype != dtype:
        raise ValueError(f"out is {array.dtype} {array.shape}, not {dtype} {tuple(shape)}")
    if not (array.flags.c_contiguous and array.flags.writeable):
        raise ValueError("out has to be contiguous and writable")
    row_bytes = math.prod(array.shape[1:]) * array.itemsize
    return array.reshape(-1).view(np.uint8).reshape(len(array), row_bytes)
