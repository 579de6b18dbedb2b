"""A file on a server, read by blocks that are kept on this machine.

A block is a file of its own, complete or not there, so processes share what any of them fetched,
and one of them fetches from a file at a time, so nothing is fetched twice. Blocks lie in
``DMVS_BLOCKS`` (``dmvs/blocks`` among the caches of the user). When they are more than
``DMVS_MAX_BLOCKS`` bytes, those go that were not used for the longest time.
"""

import fcntl
import gc
import hashlib
import io
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from cache_schema.address import Address
from cache_schema.host.cli import InputError
from cache_schema.host.limits import beyond, most
from cache_schema.host.system import SystemTrouble

BLOCK = 1 << 18  # bytes
RUN = 64  # blocks that are asked for together, at most
USED = 60  # seconds in which a block need not be marked as used again
SWEEP = 32  # of the limit, the part that one process may fetch before the oldest are looked for


class RemoteFile:
    """A file on a server that any thread reads at any place, as a `RandomAccessFile` is.

    Attributes:
        size: in bytes.
        identity: the file behind the address; another one when it was replaced.

    Raises:
        FileNotFoundError: it is missing.
        SystemTrouble: the server does not answer.
    """

    _fetched: int | None = None  # bytes of this process since it last looked for the oldest

    def __init__(self, path: Address) -> None:
        self.path = path
        self.size, state = path.stat()
        key = hashlib.sha256(f"{path} {self.size} {state}".encode()).hexdigest()[:32]
        self.identity = self.size, int(key, 16)
        caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        root = os.environ.get("DMVS_BLOCKS") or Path(caches) / "dmvs/blocks"
        self._limit, self._folder = most("DMVS_MAX_BLOCKS"), Path(root) / key

    @property
    def is_current(self) -> bool:
        """Whether the address still leads to the same file."""
        return RemoteFile(self.path).identity == self.identity

    def forget(self) -> None:
        """Remove the blocks of the file that are kept."""
        for path in self._folder.glob("[0-9]*"):
            path.unlink(missing_ok=True)

    def read(self, start: int, out: np.ndarray) -> None:
        """Fill an array from an offset on.

        Args:
            start: in bytes.
            out: (n,) uint8, contiguous.

        Raises:
            InputError: the file ends before, or the server gives no parts of a file that is larger
                than what is kept here.
            SystemTrouble: the server does not answer, or nothing can be kept here.
        """
        try:
            self._read(start, out)
        except OSError as error:
            if error.filename == str(self.path):  # gone from the server
                raise
            raise SystemTrouble(
                f"{self._folder.parent}, which keeps what comes from servers, cannot be used "
                f"({error.strerror}): mend that, or name another folder in DMVS_BLOCKS"
            ) from error

    def _read(self, start: int, out: np.ndarray) -> None:
        end = start + len(out)
        if end > self.size:
            raise InputError(f"{self.path} has been cut short: run verify")
        while start < end:
            number, skip = divmod(start, BLOCK)
            part = out[: BLOCK - skip]
            if not self._kept(number, skip, part):
                data = self._fetch(number, min((end - 1) // BLOCK, number + RUN - 1))
                data = np.frombuffer(data, np.uint8)[skip:]
                part = out[: len(data)]
                part[:] = data[: len(part)]
            start, out = start + len(part), out[len(part) :]

    def read_bytes(self) -> bytes:
        """The whole file; `InputError` if it is larger than anything read at once."""
        if much := beyond(self.size, "DMVS_MAX_ARRAY"):
            raise InputError(f"{self.path} has {much}")
        out = np.empty(self.size, np.uint8)
        self.read(0, out)
        return out.tobytes()

    def _length(self, number: int) -> int:
        return min(BLOCK, self.size - number * BLOCK)

    def _kept(self, number: int, skip: int, out: np.ndarray) -> bool:
        """Fill an array from a block on this machine; False if it is not there."""
        try:
            descriptor = os.open(f"{self._folder}/{number}", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            status = os.fstat(descriptor)
            if status.st_size != self._length(number):
                return False  # the machine went down when it was written
            if time.time() - status.st_mtime > USED:
                os.utime(descriptor)
            return os.preadv(descriptor, [out], skip) == len(out)
        finally:
            os.close(descriptor)

    def _fetch(self, first: int, last: int) -> bytes | np.ndarray:
        """Bring blocks here, up to the next one that is here already; returns their bytes."""
        with self._alone():
            data = np.empty(self._length(first), np.uint8)
            if self._kept(first, 0, data):  # by another process, meanwhile
                return data
            here = (n for n in range(first + 1, last + 1) if (self._folder / str(n)).exists())
            start, end = first * BLOCK, min(next(here, last + 1) * BLOCK, self.size)
            data = self.path.read_range(start, end)
            if len(data) == end - start:
                self._keep(first, data)
            elif len(data) == self.size <= self._limit:  # of a server that gives no parts
                self._keep(0, data)
                data = data[start:end]
            else:
                raise InputError(
                    f"the server of {self.path} gives no parts of a file (no HTTP ranges), and "
                    f"DMVS_MAX_BLOCKS has no room for its {self.size} bytes: raise that, or "
                    "download the cache"
                )
        self._sweep(len(data))
        return data

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """No other process or thread fetches from this file meanwhile."""
        self._folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._folder, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _keep(self, first: int, data: bytes) -> None:
        new = self._folder / "new"
        for number, start in enumerate(range(0, len(data), BLOCK), first):
            new.write_bytes(data[start : start + BLOCK])
            os.replace(new, self._folder / str(number))

    def _sweep(self, fetched: int) -> None:
        """Remove the blocks that were not used for the longest time, now and then."""
        spare = self._limit // SWEEP
        if RemoteFile._fetched is not None:
            RemoteFile._fetched += fetched
            if RemoteFile._fetched < spare:
                return
        RemoteFile._fetched = 0
        blocks = []
        for path in self._folder.parent.glob("*/[0-9]*"):
            try:
                status = path.stat()
            except FileNotFoundError:  # another process does the same
                continue
            blocks.append((status.st_mtime_ns, status.st_size, path))
        total = sum(size for _, size, _ in blocks)
        for _, size, path in sorted(blocks):
            if total <= self._limit - spare:
                break
            path.unlink(missing_ok=True)
            total -= size


class Stream(io.RawIOBase):
    """A `RemoteFile` read from a place of its own, as HDF5 and hashes want it."""

    def __init__(self, file: RemoteFile) -> None:
        self._file, self._at = file, 0

    def __repr__(self) -> str:
        return str(self._file.path)  # which h5py takes for the file's name

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a place."""
        self._at = offset + (0, self._at, self._file.size)[whence]
        return self._at

    def tell(self) -> int:
        """The place."""
        return self._at

    def readinto(self, buffer: memoryview) -> int:
        """Fill a buffer as far as the file goes."""
        out = np.frombuffer(buffer, np.uint8)[: max(0, self._file.size - self._at)]
        # HDF5 holds its lock meanwhile, and a thread that looks up a name must not collect garbage
        # that waits for it.
        collects = gc.isenabled()
        gc.disable()
        try:
            self._file.read(self._at, out)
        finally:
            if collects:
                gc.enable()
        self._at += len(out)
        return len(out)
