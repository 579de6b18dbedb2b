"""Zips from outside: opened and read with every way in which they can be broken one error."""

import errno
import lzma
import struct
import zipfile
import zlib
from pathlib import Path

from cache_schema.host.limits import beyond

#: What Python's reader raises for broken zips: encrypted, compressed in unknown ways, cut short.
BROKEN = (zipfile.BadZipFile, EOFError, RuntimeError, ValueError, OverflowError, struct.error)


def open_zip(path: Path) -> zipfile.ZipFile:
    """A zip for reading; an `OSError` if it is none or cannot be read."""
    try:
        return zipfile.ZipFile(path)
    except BROKEN as error:
        raise OSError(errno.EIO, str(error)) from None


def read_entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    """Content of a file; an `OSError` if it is broken or too long, which is looked at first."""
    if much := beyond(entry.file_size, "DMVS_MAX_UNPACKED"):
        raise OSError(errno.EFBIG, f"it holds {much}")
    try:
        return archive.read(entry)  # never more than it says
    except (*BROKEN, zlib.error, lzma.LZMAError) as error:
        raise OSError(errno.EIO, str(error)) from None
