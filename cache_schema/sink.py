"""The file of a shard in progress, written by HDF5, which must not see storage errors.

HDF5 does not survive a write that fails: it tries again whenever one of its objects goes away,
fills the terminal with traces and can bring the process down. So it is shown a file on which
nothing fails. The first error is kept for the writer to raise, and what comes after it is dropped
with the shard.
"""

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import h5py

from cache_schema.host.files import replacing


class Sink(io.RawIOBase):
    """A new file, readable and writable at any place.

    Attributes:
        error: the first error of the storage; None while all is well.

    Raises:
        OSError: it cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        self._place = 0
        self.error: OSError | None = None

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """As for any file."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._place}.get(whence)
        self._place = offset + (os.fstat(self._descriptor).st_size if start is None else start)
        return self._place

    def readinto(self, buffer: memoryview) -> int:
        """Fill ``buffer``; with zeros where there is nothing, as after a write that failed."""
        view = memoryview(buffer).cast("B")
        done = 0
        while done < len(view):
            got = os.preadv(self._descriptor, [view[done:]], self._place + done)
            if not got:
                view[done:] = bytes(len(view) - done)
                break
            done += got
        self._place += len(view)
        return len(view)

    def write(self, data: memoryview) -> int:
        """Write all of ``data``, or nothing more once there was an error."""
        view, place = memoryview(data).cast("B"), self._place
        self._place += len(view)
        size = len(view)
        try:
            while view and not self.error:
                done = os.pwrite(self._descriptor, view, place)
                view, place = view[done:], place + done
        except OSError as error:
            self.error = error
        return size

    def truncate(self, size: int | None = None) -> int:
        """Set the length."""
        size = self._place if size is None else size
        try:
            if not self.error:
                os.ftruncate(self._descriptor, size)
        except OSError as error:
            self.error = error
        return size

    def check(self) -> None:
        """Raise the first error of the storage, if there was one."""
        if self.error:
            raise self.error

    def sync(self) -> None:
        """Wait until everything is on the disk; raises `OSError` if it is not."""
        self.check()
        os.fsync(self._descriptor)

    def close(self) -> None:
        """Close the file."""
        if not self.closed:
            with suppress(OSError):
                os.close(self._descriptor)
        super().close()


@contextmanager
def new_hdf5(path: Path) -> Iterator[tuple[h5py.File, Sink]]:
    """A new HDF5 file that appears under its name when the block ends well; its sink to check.

    Raises:
        InputError: it cannot be written.
    """
    with replacing(path) as temporary:
        sink = Sink(temporary)
        try:
            with h5py.File(sink, "w") as file:
                yield file, sink
            sink.sync()
        finally:
            sink.close()
