"""The contract between the two stages: layout, codecs, writer, reader, manifest, fingerprint."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cache_schema.host import cli
from cache_schema.host.early import quiet_interrupts

if TYPE_CHECKING:
    from cache_schema.address import Where
    from cache_schema.reader import CacheReader

__all__ = ["cli", "open_cache"]
__version__ = "0.1.0"

quiet_interrupts()


def open_cache(path: Where, *, ram_bytes: int = 0) -> CacheReader:
    """Open a cache for reading; see `CacheReader`.

    Raises:
        InputError: the folder is no cache, holds no finished video, or is of another version.
    """
    from cache_schema.reader import CacheReader  # not for who wants the version only

    return CacheReader(path, ram_bytes=ram_bytes)
