"""The manifest of a cache: JSON lines, appended and synced once what they name is safe.

Nothing is ever rewritten: the last line on a video or a shard counts. A shard's line comes after
the lines of its videos, so that a shard that has one has all of them.
"""

import fcntl
import json
import os
import re
import zlib
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cache_schema.address import Address, Place
from cache_schema.blocks import RemoteFile
from cache_schema.host.cli import InputError
from cache_schema.host.files import sync_folder
from cache_schema.host.lookup import nearest
from cache_schema.names import escape
from cache_schema.records import CodecIoU

MANIFEST = "manifest.jsonl"
SHARD = re.compile(r"shard-(\d{5,9})\.h5")
SHA256 = re.compile(r"[0-9a-f]{64}")
#: How a line ends: with the CRC-32 of what it would be without that.
CRC = re.compile(rb', "crc32": "([0-9a-f]{8})"}')
CRC_LENGTH = 22
DAMAGED = "is damaged: its bytes are not those that were written"
OTHER = "is not a manifest line (JSON of a video or a shard)"


@dataclass(frozen=True)
class Entry:
    """A finished video: where it is, its frames, its bytes of data, its checksum (hex)."""

    id: str
    shard: str
    frames: int
    bytes: int
    checksum: str
    codec_iou: CodecIoU | None = None

    def line(self) -> dict[str, Any]:
        """The manifest line; the codec's cost only where it was measured."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class SealedShard:
    """A finished shard: the size and the SHA-256 (hex) of the whole file."""

    shard: str
    size: int
    sha256: str

    def line(self) -> dict[str, Any]:
        """The manifest line."""
        return asdict(self)


@dataclass
class Manifest:
    """The last word of the manifest on every id and every shard.

    Attributes:
        videos: the finished ones.
        failures: id to why it could not be extracted.
        dropped: id to why it was taken out; to be extracted again.
        shards: the sealed ones.
        dropped_shards: name to why a shard was given up.
        complete: every video of the data set is in the cache, and none was taken out since.
    """

    videos: dict[str, Entry] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    shards: dict[str, SealedShard] = field(default_factory=dict)
    dropped_shards: dict[str, str] = field(default_factory=dict)
    complete: bool = False

    def add(self, line: Any) -> None:
        """Take in one line.

        Raises:
            InputError: fields missing or of another type, or a shard outside the folder.
        """
        match line:
            case {"complete": count} if _is_count(count):
                self.complete = len(self.videos) == count
            case {"id": str(video_id), "failed": str(why)}:
                self._forget(video_id)
                self.failures[video_id] = why
            case {"id": str(video_id), "dropped": str(why)}:
                self._forget(video_id)
                self.dropped[video_id] = why
            case {"id": str()}:
                entry = _entry(line)
                self._forget(entry.id)
                self.videos[entry.id] = entry
            case {"shard": str(name), "dropped": str(why)} if SHARD.fullmatch(name):
                self.shards.pop(name, None)
                self.dropped_shards[name] = why
            case {"shard": str(name), "size": size, "sha256": str(sha256)} if (
                SHARD.fullmatch(name) and SHA256.fullmatch(sha256) and _is_count(size)
            ):
                self.dropped_shards.pop(name, None)
                self.shards[name] = SealedShard(name, size, sha256)
            case _:
                raise InputError("is no line of a video or a shard")

    def _forget(self, video_id: str) -> None:
        for kind in (self.videos, self.failures, self.dropped):
            kind.pop(video_id, None)
        self.complete = False  # until a line says so again

    def inside(self, shard: str) -> list[Entry]:
        """The finished videos whose lines name a shard."""
        return [entry for entry in self.videos.values() if entry.shard == shard]

    def drop(self, shard: str, why: str) -> list[dict[str, Any]]:
        """The lines that give up a shard, those of its videos first."""
        ids = [entry.id for entry in self.inside(shard)]
        return [*({"id": i, "dropped": why} for i in ids), {"shard": shard, "dropped": why}]

    @property
    def shard_names(self) -> set[str]:
        """Every shard that a line names, dropped ones too."""
        listed = {entry.shard for entry in self.videos.values()}
        return listed | self.shards.keys() | self.dropped_shards.keys()


def _entry(line: dict[str, Any]) -> Entry:
    match line:
        case {
            "id": str(video_id),
            "shard": str(shard),
            "frames": frames,
            "bytes": size,
            "checksum": str(checksum),
        } if SHARD.fullmatch(shard) and _is_count(frames) and frames and _is_count(size):
            escape(video_id)
            cost = codec_iou(line.get("codec_iou"))
            return Entry(video_id, shard, frames, size, checksum, cost)
    raise InputError("lacks a field, or one cannot be")


def _is_count(value: Any) -> bool:
    # type() and not isinstance(): true and false are no numbers.
    return type(value) is int and 0 <= value < 1 << 63


def codec_iou(value: Any) -> CodecIoU | None:
    """The cost of a codec from JSON; None stays None.

    Raises:
        InputError: it is anything else than a mean, a worst and a number of masks.
    """
    if value is None:
        return None
    match value:
        case {"mean": int() | float() as mean, "worst": int() | float() as worst, "masks": masks}:
            if 0 <= mean <= 1 and 0 <= worst <= 1 and _is_count(masks) and masks:
                return CodecIoU(float(mean), float(worst), masks)
    raise InputError(f"{value!r} is not the IoU of a codec (mean, worst, masks)")


def read(folder: Place) -> Manifest:
    """Read the manifest of a cache; a torn last line (a killed run's) is left out.

    Raises:
        InputError: there is no manifest, or one of its lines is damaged or not one.
    """
    path = folder / MANIFEST
    try:
        data = (RemoteFile(path) if isinstance(path, Address) else path).read_bytes()
    except OSError as error:
        raise InputError(
            f"{folder} is not a cache: {MANIFEST} cannot be read ({error.strerror}){_near(folder)}"
        ) from None
    manifest = Manifest()
    *lines, torn = data.split(b"\n")
    # What a killed run tears off is no whole line with something after it.
    whole = torn and CRC.fullmatch(torn, max(0, len(torn) - 1 - CRC_LENGTH), len(torn) - 1)
    for number, line in enumerate([*lines, torn] if whole else lines, 1):
        try:
            manifest.add(_parse(line))
        except (InputError, ValueError, RecursionError) as error:
            what = DAMAGED if str(error) == DAMAGED else OTHER
            raise InputError(
                f"{path}, line {number} {what}; restore or delete that line, then run the same "
                "extraction again"
            ) from None
    return manifest


def _parse(line: bytes) -> Any:
    """A line as JSON; `InputError` if it has a checksum and that is of another."""
    content = json.loads(line)
    if isinstance(content, dict) and "crc32" in content:  # older lines have none
        found = CRC.fullmatch(line, max(0, len(line) - CRC_LENGTH))
        if not found or int(found[1], 16) != zlib.crc32(line[: found.start()] + b"}"):
            raise InputError(DAMAGED)
    return content


def _near(folder: Place) -> str:
    """What to say of the caches in a folder that is none, or beside it."""
    for place in () if isinstance(folder, Address) else (folder, folder.parent):
        caches = sorted(path.parent.name for path in place.glob(f"*/{MANIFEST}"))
        if caches:
            names = " and ".join(filter(None, (", ".join(caches[:-1]), caches[-1])))
            many = "caches" if len(caches) > 1 else "cache"
            return f"; {place} holds the {many} {names}{nearest(folder.name, caches)}"
    return ""


def heal(folder: Path) -> None:
    """Create the manifest, or cut a torn last line off it."""
    append(folder, [])
    sync_folder(folder)


def append(folder: Path, lines: Iterable[Entry | SealedShard | dict[str, Any]]) -> None:
    """Append lines and wait until they are on the disk; processes wait for each other."""
    rows = [line if isinstance(line, dict) else line.line() for line in lines]
    data = b"".join(map(_text, rows))
    descriptor = os.open(folder / MANIFEST, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)  # until it is closed
        end = _cut_torn_line(descriptor)
        try:
            while data:
                data = data[os.write(descriptor, data) :]
            os.fsync(descriptor)
        except OSError:
            with suppress(OSError):
                os.ftruncate(descriptor, end)
            raise
    finally:
        os.close(descriptor)


def _text(row: dict[str, Any]) -> bytes:
    """A line with its checksum and its end."""
    text = json.dumps(row).encode()
    return text[:-1] + b', "crc32": "%08x"}\n' % zlib.crc32(text)


def _cut_torn_line(descriptor: int) -> int:
    """Cut what follows the last newline and return the length that is left."""
    size = os.fstat(descriptor).st_size
    if size and os.pread(descriptor, 1, size - 1) != b"\n":
        size = os.pread(descriptor, size, 0).rfind(b"\n") + 1
        os.ftruncate(descriptor, size)
    return size
