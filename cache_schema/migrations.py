"""Older format versions, read as the newest: one function a step.

Shards never change, so a cache is not converted: what its shards' headers say is turned into what
the newest version says each time they are read. An older cache can be read, verified and trained
from for ever; it is not continued, since one folder holds one version.

Version 2 also has lines for shards in the manifest and what the codec costs with each video. Both
are absent from a version-1 cache, whose videos are verified by their own checksums. What version 3
added to videos is absent from both: `Video` says what a reader gets instead.
"""

from typing import Any

from cache_schema.codecs import CODECS
from cache_schema.host.cli import InputError
from cache_schema.records import Facts, SegmenterFacts
from cache_schema.spec import FORMAT_VERSION

Header = dict[str, Any]


def _1_to_2(header: Header) -> Header:
    """Version 2 keeps a codec's basis in the shard; no codec of version 1 had one."""
    return {**header, "basis": None}


# Whether an expression of a data set means exactly one object. The only place where the name of a
# data set decides anything: shards before version 3 say nothing else.
ONE_OBJECT = {
    "mevis": False,
    "folder": False,
    "ref_davis": True,
    "ref_youtube_vos": True,
    "refcoco": True,
    "refcoco+": True,
    "refcocog": True,
}


def _2_to_3(header: Header) -> Header:
    """Version 3 says what data set and segmenter are, and declares the codec."""
    codec = CODECS.get(header["codec"])
    return {
        **header,
        "facts": facts_of(header["dataset"]),
        "segmenter": SegmenterFacts("vita", identity=False),
        "codec_json": codec and codec.declare(),
    }


def facts_of(dataset: str) -> Facts:
    """The facts of a data set of that time."""
    protocol = "davis" if dataset == "ref_davis" else "expressions"
    return Facts(ONE_OBJECT.get(dataset), protocol, has_text=dataset != "folder")


STEPS = {1: _1_to_2, 2: _2_to_3}


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
