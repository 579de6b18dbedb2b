"""Older format versions, read as the newest: one function a step.

Shards never change, so a cache is not converted: what its shards' headers say is turned into what
the newest version says each time they are read. An older cache can be read, verified and trained
from for ever; it is not continued, since one folder holds one version.

Version 2 also has lines for shards in the manifest and what the codec costs with each video. Both
are absent from a version-1 cache, whose videos are verified by their own checksums.
"""

from typing import Any

from cache_schema.host.cli import InputError
from cache_schema.spec import FORMAT_VERSION

Header = dict[str, Any]


def _1_to_2(header: Header) -> Header:
    """Version 2 keeps a codec's basis in the shard; no codec of version 1 had one."""
    return {**header, "basis": None}


STEPS = {1: _1_to_2}


def check_version(version: int, where: str) -> None:
    """Raise `InputError` unless this program reads the version; ``where`` names the file."""
    if version != FORMAT_VERSION and version not in STEPS:
        raise InputError(
            f"{where} has the cache format version {version}, this program reads "
            f"{', '.join(map(str, sorted({*STEPS, FORMAT_VERSION})))}: "
            "use the program that wrote it, or extract again"
        )


def upgrade(header: Header, version: int) -> Header:
    """A shard's header of any readable version in the form of the newest one."""
    while version != FORMAT_VERSION:
        header = STEPS[version](header)
        version += 1
    return header
