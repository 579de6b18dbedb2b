"""Shards seen as data from outside: every name, link, type and size is checked before it is used.

A shard is an HDF5 file (format of HDF5 1.10, whose metadata carries its own checksums) with root
attributes that describe the cache and one group per video under ``/videos``.
"""

import hashlib
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TypeVar

import h5py
import numpy as np

from cache_schema import migrations, spec
from cache_schema.cli import InputError
from cache_schema.codecs import Basis, Codec, get_codec
from cache_schema.fingerprint import Fingerprint, differences
from cache_schema.records import Geometry
from cache_schema.spec import FORMAT_VERSION

CRC = "crc32"
# No segmenter has nearly as many; a basis is at most 64 MiB by this.
MAX_CHANNELS = 4096
PIECE = 1 << 24  # bytes that are read at a time for a checksum
REPAIR = "`python -m cache_schema verify {} --repair`"
# HDF5's chunk cache only costs time when a chunk is a frame and every frame is read once.
OPEN = {"rdcc_nbytes": 0}
LIBVER = ("v110", "v110")
Node = TypeVar("Node", h5py.Group, h5py.Dataset)


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
    """
    try:
        # Finished shards never change, so no lock is needed (and read-only disks refuse one).
        file = h5py.File(path, "r", locking=False, **OPEN)
    except OSError as error:
        reason = str(error).split("(", 1)[-1].rstrip(")") if path.exists() else "it is missing"
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


def where(node: h5py.Group | h5py.Dataset) -> str:
    """File and path of an object, for messages."""
    return f"{node.file.filename}:{node.name}"


def attribute(node: h5py.Group | h5py.Dataset, name: str, kind: type):
    """A scalar attribute as a Python ``int``, ``float``, ``bool`` or ``str``.

    Raises:
        InputError: it is missing or of another kind.
    """
    value = _scalar(node, name)
    if type(value) is not kind:
        raise InputError(f"{where(node)}: attribute {name!r} is {value!r}, not {kind.__name__}")
    return value


def _scalar(node: h5py.Group | h5py.Dataset, name: str):
    try:
        stored = node.attrs.get_id(name)
        # Looked at first: an array as an attribute could ask for any amount of memory.
        if stored.shape != ():
            value = np.empty(0)
        elif stored.dtype.kind in "iu":  # most are checksums; h5py's own way takes thrice as long
            value = np.empty((), stored.dtype)
            stored.read(value)
            value = value[()]
        else:
            value = node.attrs[name]
        if isinstance(value, str):
            value.encode()  # HDF5 lets anything pass as UTF-8
    except (KeyError, OSError, RuntimeError, TypeError, ValueError):
        raise InputError(f"{where(node)} has no readable attribute {name!r}") from None
    return value.item() if isinstance(value, np.generic) else value


def json_attribute(node: h5py.Group, name: str) -> list[str]:
    """An attribute that is a JSON list of strings."""
    try:
        value = json.loads(attribute(node, name, str))
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise InputError(f"{where(node)}: attribute {name!r} is not a JSON list of strings")
    return value


def child(group: h5py.Group, name: str, kind: type[Node]) -> Node:
    """A member of a group, only if it is really inside this file.

    Raises:
        InputError: missing, an external or soft link, of the other kind, or a dataset with
            filters, object types, or data stored in other files.
    """
    node = _member(group, name)
    if not isinstance(node, kind):
        raise InputError(f"{where(group)}: member {name!r} is not a {kind.__name__.lower()}")
    return node


def _member(group: h5py.Group, name: str) -> h5py.Group | h5py.Dataset | None:
    """A member that is really inside this file; None if it is neither group nor dataset."""
    try:
        # As h5py decodes names. With its own lookups, a walk takes thrice as long.
        encoded = name.encode(errors="surrogateescape")
        link = group.id.links.get_info(encoded).type
        node = h5py.h5o.open(group.id, encoded) if link == h5py.h5l.TYPE_HARD else None
    except (KeyError, OSError, RuntimeError, ValueError) as error:
        raise InputError(f"{where(group)} has no readable member {name!r} ({error})") from None
    if node is None:
        what = "an external link" if link == h5py.h5l.TYPE_EXTERNAL else "a soft link"
        raise InputError(f"{where(group)}: member {name!r} is {what}, which no cache has; refused")
    if isinstance(node, h5py.h5g.GroupID):
        return h5py.Group(node)
    if not isinstance(node, h5py.h5d.DatasetID):
        return None
    dataset = h5py.Dataset(node)
    _check_storage(dataset)
    return dataset


def _check_storage(dataset: h5py.Dataset) -> None:
    """Refuse a dataset that is not plain numbers, all of them in this file."""
    if dataset.shape is None or dataset.dtype.kind not in "fiub":
        raise InputError(f"{where(dataset)} has the type {dataset.dtype}, not numbers; refused")
    made = dataset.id.get_create_plist()
    if made.get_external_count() or made.get_layout() == h5py.h5d.VIRTUAL:
        raise InputError(f"{where(dataset)} keeps its data in other files; refused")
    if made.get_nfilters():
        raise InputError(f"{where(dataset)} has filters, which no cache has; refused")
    # Bounds every later allocation by the size of the file, which HDF5 itself does not.
    stored = dataset.id.get_storage_size()
    if stored != dataset.nbytes or stored > h5py.h5i.get_file_id(dataset.id).get_filesize():
        raise InputError(f"{where(dataset)} holds {stored} of its {dataset.nbytes} bytes")


def values(dataset: h5py.Dataset, selection: int | slice | tuple[()] = ()) -> np.ndarray:
    """Read a whole dataset, or an index or range of its first axis; `InputError` if it fails."""
    try:
        return dataset[selection]
    except (OSError, RuntimeError) as error:
        raise InputError(f"{where(dataset)} cannot be read ({error}): run verify") from None


def members(group: h5py.Group) -> list[str]:
    """Names in a group, without following any link."""
    try:
        return list(group)
    except (OSError, RuntimeError) as error:
        raise InputError(f"{where(group)} cannot be read ({error})") from None


def walk(group: h5py.Group, path: str = "") -> Iterator[tuple[str, h5py.Group | h5py.Dataset]]:
    """Every group and dataset from ``group`` down, with its path below it ('' is the group)."""
    yield path, group
    # Nothing in a video lies deeper than expressions/<id>/words; hard links could make a circle.
    if path.count("/") > 2:
        raise InputError(f"{where(group)} lies deeper than anything a cache holds; refused")
    for name in members(group):
        inner = f"{path}/{name}" if path else name
        node = _member(group, name)
        if isinstance(node, h5py.Group):
            yield from walk(node, inner)
        elif node is None:
            raise InputError(f"{where(group)}: member {name!r} is not a dataset")
        else:
            yield inner, node


def read_geometry(video: h5py.Group) -> Geometry:
    """The geometry of a video, every length at least 1."""
    values = {f.name: attribute(video, f.name, int) for f in fields(Geometry)}
    for name, value in values.items():
        if value < 1:
            raise InputError(f"{where(video)}: attribute {name!r} is {value}")
    return Geometry(**values)


def crc32(dataset: h5py.Dataset) -> int:
    """CRC-32 of a dataset's values, C order, as stored; read piece by piece, chunks by frame."""
    if not dataset.size:
        return 0
    rows = 1 if dataset.chunks else max(1, PIECE * len(dataset) // dataset.nbytes)
    crc = 0
    for start in range(0, len(dataset), rows):
        crc = zlib.crc32(np.ascontiguousarray(values(dataset, slice(start, start + rows))), crc)
    return crc


class Structure:
    """SHA-256 of a video's structure: paths, attributes (with each crc32), types, shapes.

    The values themselves enter through the ``crc32`` attributes, so this is cheap.
    """

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def add(self, path: str, node: h5py.Group | h5py.Dataset) -> None:
        """Take in what `walk` yields, in its order."""
        attributes = {name: _plain(node, name) for name in sorted(node.attrs)}
        is_data = isinstance(node, h5py.Dataset)
        kind = [node.dtype.str, list(node.shape)] if is_data else None
        line = json.dumps([path, kind, attributes], sort_keys=True)
        self._digest.update(line.encode() + b"\n")

    def checksum(self) -> str:
        """The digest (hex) of what was taken in."""
        return self._digest.hexdigest()


def checksum(video: h5py.Group) -> str:
    """The `Structure` of a whole video."""
    structure = Structure()
    for path, node in walk(video):
        structure.add(path, node)
    return structure.checksum()


def _plain(node: h5py.Group | h5py.Dataset, name: str) -> int | str:
    value = _scalar(node, name)
    if not isinstance(value, int | str):
        raise InputError(f"{where(node)}: attribute {name!r} is neither a whole number nor text")
    return value


def damages(video: h5py.Group, expected: str | None, *, data: bool = True) -> list[str]:
    """What is wrong with a video: nothing when it is sound.

    Args:
        video: its group.
        expected: the checksum its manifest line gives; None leaves that test out.
        data: read the values and compare them with their checksums.
    """
    found, structure = [], Structure()
    try:
        for path, node in walk(video):
            is_data = data and isinstance(node, h5py.Dataset)
            if is_data and crc32(node) != attribute(node, CRC, int):
                found.append(f"{path}: its bytes do not match its checksum")
            if expected is not None:
                structure.add(path, node)
        if data:
            # HDF5's own bookkeeping, which our reading leaves alone but other programs do not.
            video.visititems(lambda name, node: None)
        if expected is not None and structure.checksum() != expected:
            found.append("its names, shapes or attributes do not match the manifest's checksum")
    except InputError as error:
        found.append(str(error))
    except Exception as error:  # HDF5 raises all kinds of exceptions on broken metadata.
        found.append(f"cannot be read ({error})")
    return found
