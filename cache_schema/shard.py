"""A shard's header: which cache it belongs to, and the codec of that cache.

A shard is an HDF5 file (format of HDF5 1.10, whose metadata carries its own checksums) with root
attributes that describe the cache and one group per video under ``/videos``.
"""

import errno
import hashlib
import json
import zlib
from dataclasses import dataclass, fields
from pathlib import Path

import h5py
import numpy as np

from cache_schema import migrations, spec
from cache_schema.checksums import CRC, crc32
from cache_schema.codecs import Basis, Codec, get_codec
from cache_schema.fingerprint import Fingerprint, differences
from cache_schema.host import system
from cache_schema.host.cli import InputError
from cache_schema.nodes import attribute, child, members, values, where
from cache_schema.records import Geometry
from cache_schema.spec import FORMAT_VERSION

# No segmenter has nearly as many; a basis is at most 64 MiB by this.
MAX_CHANNELS = 4096
REPAIR = "`python -m cache_schema verify {} --repair`"
# HDF5's chunk cache only costs time when a chunk is a frame and every frame is read once.
OPEN = {"rdcc_nbytes": 0}
LIBVER = ("v110", "v110")


class UnreadableShard(InputError):
    """A shard that is missing, no HDF5 file, or cut short."""


@dataclass(frozen=True)
class Header:
    """What every shard says of its cache; ``version`` is that of its format on the disk."""

    dataset: str
    split: str
    codec: Codec
    fingerprint: Fingerprint
    version: int = FORMAT_VERSION

    def write(self, file: h5py.File) -> None:
        """Write the root attributes and the codec's basis into a new shard."""
        file.attrs["schema_version"] = FORMAT_VERSION
        file.attrs["fingerprint"] = self.fingerprint.hex
        file.attrs["fingerprint_json"] = self.fingerprint.json
        file.attrs["dataset"], file.attrs["split"] = self.dataset, self.split
        write_codec(file, self.codec)
        file.attrs[CRC] = self.crc32

    @property
    def crc32(self) -> int:
        """CRC-32 of the root's texts, which HDF5 keeps without a checksum."""
        texts = [self.dataset, self.split, self.codec.name, self.fingerprint.json]
        return zlib.crc32(json.dumps(texts).encode())

    @property
    def names(self) -> dict[str, str]:
        """The attributes that are plain text."""
        return {"dataset": self.dataset, "split": self.split, "codec": self.codec.name}

    def check(self, other: "Header", path: Path) -> None:
        """Raise `InputError` naming what differs unless the shard ``path`` has this header."""
        found = differences(other.fingerprint.data, self.fingerprint.data) or differences(
            *({**h.names, "codec": h.codec.describe()} for h in (other, self))
        )
        if found:
            raise InputError(
                f"{path} was made with other settings, {'; '.join(found)} (found != expected): "
                "use those settings again, or another folder"
            )


def open_shard(path: Path) -> tuple[h5py.File, Header]:
    """Open a finished shard for reading and check its header.

    Raises:
        UnreadableShard: it is missing, no HDF5 file, or truncated.
        InputError: it is of another format version, or no shard.
        SystemTrouble: it may be fine, but cannot be read.
    """
    try:
        # Finished shards never change, so no lock is needed (and read-only disks refuse one).
        file = h5py.File(path, "r", locking=False, **OPEN)
    except (OSError, RuntimeError, SystemError) as error:
        system.check(error, path)
        missing = getattr(error, "errno", None) == errno.ENOENT
        reason = "it is missing" if missing else str(error).split("(", 1)[-1].rstrip(")")
        raise UnreadableShard(
            f"shard {path} cannot be opened ({reason}): run {REPAIR.format(path.parent)}, "
            "then the same extraction again"
        ) from error
    try:
        return file, _read_header(file)
    except BaseException:
        file.close()
        raise


def _read_header(file: h5py.File) -> Header:
    version = attribute(file, "schema_version", int)
    migrations.check_version(version, file.filename)
    text = attribute(file, "fingerprint_json", str)
    try:
        fingerprint = Fingerprint(json.loads(text))
    except (ValueError, RecursionError):
        fingerprint = None
    if fingerprint is None or not isinstance(fingerprint.data, dict):
        raise InputError(f"{file.filename}: its fingerprint is not a JSON object")
    if hashlib.sha256(text.encode()).hexdigest() != attribute(file, "fingerprint", str):
        raise InputError(f"{file.filename}: its fingerprint does not match its own JSON")
    found = {name: attribute(file, name, str) for name in ("dataset", "split", "codec")}
    if "codec" in members(file):
        found["basis"] = _read_basis(child(file, "codec", h5py.Group))
    found = migrations.upgrade(found, version)
    if "basis" not in found:
        raise InputError(f"{file.filename} has no group 'codec'")
    codec = get_codec(found["codec"], found["basis"])
    header = Header(found["dataset"], found["split"], codec, fingerprint, version)
    if CRC in file.attrs and attribute(file, CRC, int) != header.crc32:
        raise InputError(f"{file.filename}: its texts do not match their checksum")
    return header


def write_codec(file: h5py.File, codec: Codec) -> None:
    """Write a codec's name and its basis, if it has one, into a new file."""
    file.attrs["codec"] = codec.name
    group = file.create_group("codec")
    if codec.basis:
        for name, layout in spec.BASIS.items():
            array = np.ascontiguousarray(getattr(codec.basis, name), layout.dtype)
            dataset = group.create_dataset(name, data=array)
            dataset.attrs[CRC] = zlib.crc32(array)


def read_codec(file: h5py.File) -> Codec:
    """The codec that `write_codec` wrote.

    Raises:
        InputError: it is missing or damaged.
    """
    return get_codec(attribute(file, "codec", str), _read_basis(child(file, "codec", h5py.Group)))


def _read_basis(group: h5py.Group) -> Basis | None:
    if not members(group):
        return None
    dims: dict[str, int] = {}
    datasets = {name: child(group, name, h5py.Dataset) for name in spec.BASIS}
    # All sizes before any data, since a shard may claim any.
    for name, layout in spec.BASIS.items():
        try:
            layout.bind(name, datasets[name].shape, dims)
        except ValueError as error:
            raise InputError(f"{where(datasets[name])}: {error}") from None
    if not 0 < dims["R"] <= dims["C_mask"] <= MAX_CHANNELS:
        raise InputError(f"{where(group)}: a basis of rank {dims['R']} for {dims['C_mask']}")
    arrays = {}
    for name, layout in spec.BASIS.items():
        dataset = datasets[name]
        if dataset.dtype != np.dtype(layout.dtype) or crc32(dataset) != attribute(
            dataset, CRC, int
        ):
            raise InputError(f"{where(dataset)}: its bytes do not match its type and checksum")
        arrays[name] = values(dataset)
        if not np.isfinite(arrays[name]).all():
            raise InputError(f"{where(dataset)} holds NaN or infinite values")
    return Basis(**arrays)


def read_geometry(video: h5py.Group) -> Geometry:
    """The geometry of a video, every length at least 1."""
    values = {f.name: attribute(video, f.name, int) for f in fields(Geometry)}
    for name, value in values.items():
        if value < 1:
            raise InputError(f"{where(video)}: attribute {name!r} is {value}")
    return Geometry(**values)
