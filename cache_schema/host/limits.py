"""What a file from outside may ask for at most, looked at before anything is allocated.

Each limit is a variable of the environment, for the rare file that needs more and is meant.
"""

import os

from cache_schema.host.cli import InputError

#: By variable: the most, and of what.
LIMITS = {
    "DMVS_MAX_PIXELS": (1 << 26, "pixels of an image"),
    "DMVS_MAX_UNPACKED": (1 << 28, "bytes of a file in an archive"),
    "DMVS_MAX_PICKLE": (1 << 26, "bytes of a pickle in a checkpoint"),
    "DMVS_MAX_ARRAY": (1 << 31, "bytes of an array of HDF5 that is read at once"),
    "DMVS_MAX_BLOCKS": (20 * 10**9, "bytes of caches on servers that are kept here"),
}


def most(name: str) -> int:
    """The limit of a name in `LIMITS`.

    Raises:
        InputError: the environment has no number for it.
    """
    default, what = LIMITS[name]
    text = os.environ.get(name, str(default))
    if not (text.isascii() and text.isdecimal() and 0 < len(text) < 19):
        raise InputError(f"{name} is {text[:40]!r}: give the most {what}, such as {default}")
    return int(text)


def beyond(count: int, name: str) -> str:
    """What to say of so many; '' where they are within the limit."""
    if count <= (limit := most(name)):
        return ""
    return f"{count:,} {LIMITS[name][1]}, more than {limit:,} (if it is meant, set {name})"
