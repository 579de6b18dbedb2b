"""A shard's header: which cache it belongs to, its codec, what data set and segmenter say.

A shard is an HDF5 file (format of HDF5 1.10, whose metadata carries its own checksums) with root
attributes that describe the cache and one group per video under ``/videos``.
"""

import errno
import hashlib
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import h5py
import numpy as np

from cache_schema import migrations, spec
from cache_schema.address import Address, Place
from cache_schema.blocks import RemoteFile, Stream
from cache_schema.checksums import CRC, crc32
from cache_schema.codecs import CODECS, Basis, Codec, declared_codec
from cache_schema.fingerprint import Fingerprint, check_same
from cache_schema.host import system
from cache_schema.host.cli import InputError
from cache_schema.host.limits import beyond
from cache_schema.nodes import attribute, child, json_attribute, members, values, where
from cache_schema.records import ACTIVATIONS, Facts, Geometry, SegmenterFacts
from cache_schema.spec import FORMAT_VERSION

# No segmenter has nearly as many; a basis is at most 64 MiB by this, and so is a layer.
MAX_CHANNELS, MAX_LAYERS = 4096, 16
# HDF5's chunk cache only costs time when a chunk is a frame and every frame is read once.
OPEN = {"rdcc_nbytes": 0}
LIBVER = ("v110", "v110")
#: Texts of the root, of which older versions have only some.
TEXTS = ("dataset", "split", "codec", "fingerprint_json")
TEXTS += ("codec_json", "facts_json", "segmenter_json")


class UnreadableShard(InputError):
    """A shard that is missing, no HDF5 file, or cut short."""


def remedy(cache: Place) -> str:
    """What is to be done about damage in a cache."""
    verify = f"run `python -m cache_schema verify {cache}"
    if isinstance(cache, Address):
        return f"{verify}`, which reads it all anew, and tell who keeps it if it is damaged there"
    return f"{verify} --repair`, then the same extraction again"


def missing(path: Place) -> UnreadableShard:
    """What is said of a shard that is not there."""
    return UnreadableShard(f"shard {path} cannot be opened (it is missing): {remedy(path.parent)}")


@dataclass(frozen=True)
class Header:
    """What every shard says of its cache; ``version`` is that of its format on the disk."""

    dataset: str
    split: str
    codec: Codec
    fingerprint: Fingerprint
    facts: Facts
    segmenter: SegmenterFacts
    version: int = FORMAT_VERSION

    def write(self, file: h5py.File) -> None:
        """Write the root attributes, the codec's basis and the mask head into a new shard."""
        file.attrs["schema_version"] = FORMAT_VERSION
        file.attrs["fingerprint"] = self.fingerprint.hex
        file.attrs["fingerprint_json"] = self.fingerprint.json
        file.attrs["dataset"], file.attrs["split"] = self.dataset, self.split
        file.attrs["facts_json"] = _json(asdict(self.facts))
        file.attrs["segmenter_json"] = _json(self.segmenter.describe())
        write_codec(file, self.codec)
        layers = file.create_group("segmenter/mask_head")
        for number, layer in enumerate(self.segmenter.mask_head):
            group = layers.create_group(str(number))
            for (name, layout), array in zip(spec.LAYER.items(), layer, strict=True):
                _write_array(group, name, layout, array)
        file.attrs[CRC] = texts_crc32(file)

    @property
    def names(self) -> dict[str, Any]:
        """What it says, as plain JSON, beside the fingerprint."""
        facts = {"facts": asdict(self.facts), "segmenter": self.segmenter.describe()}
        codec = {**self.codec.describe(), **self.codec.declare()}
        return {"dataset": self.dataset, "split": self.split, "codec": codec, **facts}

    def check(self, other: "Header", path: Place) -> None:
        """Raise `InputError` naming what differs unless the shard ``path`` has this header."""
        check_same(other.fingerprint.data, self.fingerprint.data, path)
        check_same(other.names, self.names, path)


def open_shard(path: Place) -> tuple[h5py.File, Header]:
    """Open a finished shard for reading and check its header.

    Raises:
        UnreadableShard: it is missing, no HDF5 file, or truncated.
        InputError: it is of another format version, or no shard.
        SystemTrouble: it may be fine, but cannot be read.
    """
    try:
        # Finished shards never change, so no lock is needed (and read-only disks refuse one).
        source = Stream(RemoteFile(path)) if isinstance(path, Address) else path
        file = h5py.File(source, "r", locking=False, **OPEN)
    except (OSError, RuntimeError, SystemError) as error:
        system.check(error, path)
        if getattr(error, "errno", None) == errno.ENOENT:
            raise missing(path) from error
        reason = str(error).split("(", 1)[-1].rstrip(")")
        raise UnreadableShard(
            f"shard {path} cannot be opened ({reason}): {remedy(path.parent)}"
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
    found: dict[str, Any] = {n: attribute(file, n, str) for n in ("dataset", "split", "codec")}
    if version > 1:
        found["basis"] = _read_basis(child(file, "codec", h5py.Group))
    if version > 2:
        found |= {"facts": _read_facts(file), "segmenter": _read_segmenter(file)}
        found["codec_json"] = json_attribute(file, "codec_json", dict)
    check_texts(file)
    found = migrations.upgrade(found, version)
    codec = declared_codec(found.pop("codec"), found.pop("codec_json"), found.pop("basis"))
    return Header(codec=codec, fingerprint=fingerprint, version=version, **found)


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def texts_crc32(file: h5py.File, names: Sequence[str] = TEXTS) -> int:
    """CRC-32 of the root's texts of these names, which HDF5 keeps without a checksum."""
    there = [name for name in names if name in file.attrs]
    return zlib.crc32(json.dumps([attribute(file, name, str) for name in there]).encode())


def check_texts(file: h5py.File, names: Sequence[str] = TEXTS) -> None:
    """Raise `InputError` unless the root's texts are those of its checksum, if it has one."""
    if CRC in file.attrs and attribute(file, CRC, int) != texts_crc32(file, names):
        raise InputError(f"{file.filename}: its texts do not match their checksum")


def _read_facts(file: h5py.File) -> Facts:
    match {"release": "", **json_attribute(file, "facts_json", dict)}:
        case {
            "one_object": True | False | None as one_object,
            "protocol": "expressions" | "davis" as protocol,
            "has_text": bool() as has_text,
            "release": str(release),
        }:
            return Facts(one_object, protocol, has_text, release)
    raise InputError(f"{file.filename}: its facts of the data set are none that this program knows")


def _read_segmenter(file: h5py.File) -> SegmenterFacts:
    described = json_attribute(file, "segmenter_json", dict)
    groups = child(child(file, "segmenter", h5py.Group), "mask_head", h5py.Group)
    count = len(members(groups))
    if count > MAX_LAYERS:
        raise InputError(f"{where(groups)} has {count} layers")
    mask_head, dims = [], {}
    for number in range(count):
        dims = {"in": dims["out"]} if dims else {}
        layer = _read_arrays(child(groups, str(number), h5py.Group), spec.LAYER, dims)
        mask_head.append(tuple(layer.values()))
    match described:
        case {"type": str(name), "identity": bool(identity)}:
            activation = described.get("activation", "relu")
            found = SegmenterFacts(name, identity, tuple(mask_head), activation)
            if found.describe() == described and activation in ACTIVATIONS:
                return found
    raise InputError(
        f"{file.filename}: its mask head is not the one that its 'segmenter_json' says"
    )


def write_codec(file: h5py.File, codec: Codec) -> None:
    """Write a codec's name and its basis, if it has one, into a new file."""
    file.attrs["codec"], file.attrs["codec_json"] = codec.name, _json(codec.declare())
    group = file.create_group("codec")
    for name, layout in spec.BASIS.items() if codec.basis else ():
        _write_array(group, name, layout, getattr(codec.basis, name))


def _write_array(group: h5py.Group, name: str, layout: spec.Spec, array: np.ndarray) -> None:
    array = np.ascontiguousarray(array, np.dtype(layout.dtype).newbyteorder("<"))
    layout.bind(f"{group.name}/{name}", array.shape, {})
    group.create_dataset(name, data=array).attrs[CRC] = zlib.crc32(array)


def read_codec(file: h5py.File) -> Codec:
    """The codec that `write_codec` wrote. Raises InputError: it is missing or damaged."""
    basis = _read_basis(child(file, "codec", h5py.Group))
    name = attribute(file, "codec", str)
    known = CODECS.get(name)  # which a file of format version 2 does not declare
    here = "codec_json" in file.attrs
    declared = json_attribute(file, "codec_json", dict) if here else known and known.declare()
    return declared_codec(name, declared, basis)


def _read_basis(group: h5py.Group) -> Basis | None:
    if not members(group):
        return None
    dims: dict[str, int] = {}
    arrays = _read_arrays(group, spec.BASIS, dims)
    if dims["R"] > dims["C_mask"]:
        raise InputError(f"{where(group)}: a basis of rank {dims['R']} for {dims['C_mask']}")
    return Basis(**arrays)


def _read_arrays(
    group: h5py.Group, layouts: Mapping[str, spec.Spec], dims: dict[str, int]
) -> dict[str, np.ndarray]:
    """Small arrays of the whole cache; sizes are looked at first, since a shard may claim any."""
    datasets = {name: child(group, name, h5py.Dataset) for name in layouts}
    for name, layout in layouts.items():
        try:
            layout.bind(name, datasets[name].shape, dims)
        except ValueError as error:
            raise InputError(f"{where(datasets[name])}: {error}") from None
    if not 0 < min(dims.values()) <= max(dims.values()) <= MAX_CHANNELS:
        sizes = ", ".join(f"{symbol}={length}" for symbol, length in dims.items())
        raise InputError(f"{where(group)} has the sizes {sizes}: not from 1 to {MAX_CHANNELS}")
    arrays = {}
    for name, layout in layouts.items():
        dataset = datasets[name]
        if dataset.dtype != np.dtype(layout.dtype) or crc32(dataset) != attribute(
            dataset, CRC, int
        ):
            raise InputError(f"{where(dataset)}: its bytes do not match its type and checksum")
        arrays[name] = values(dataset)
        if not np.isfinite(arrays[name]).all():
            raise InputError(f"{where(dataset)} holds NaN or infinite values")
    return arrays


def read_geometry(video: h5py.Group) -> Geometry:
    """The geometry of a video, every length at least 1."""
    values = {f.name: attribute(video, f.name, int) for f in fields(Geometry)}
    for name, value in values.items():
        if value < 1:
            raise InputError(f"{where(video)}: attribute {name!r} is {value}")
    for kind in ("", "resized_", "padded_"):
        pixels = values[f"{kind}height"] * values[f"{kind}width"]
        if much := beyond(pixels, "DMVS_MAX_PIXELS"):
            raise InputError(f"{where(video)}: its {kind}height and {kind}width make {much}")
    return Geometry(**values)
