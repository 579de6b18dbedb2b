"""The manifest of a cache: one JSON line a video, appended and synced once its shard is safe."""

import json
import os
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cache_schema.cli import InputError
from cache_schema.names import escape

MANIFEST = "manifest.jsonl"
SHARD = re.compile(r"shard-(\d{5,9})\.h5")


@dataclass(frozen=True)
class Entry:
    """A finished video: where it is, its frames, its bytes of data, its checksum (hex)."""

    id: str
    shard: str
    frames: int
    bytes: int
    checksum: str


@dataclass
class Manifest:
    """The last word of the manifest on every id: finished videos, and failed ones with why."""

    videos: dict[str, Entry] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    def add(self, line: dict[str, Any]) -> None:
        """Take in one line; a later line on the same id replaces an earlier one.

        Raises:
            InputError: fields missing or of another type, or a shard outside the folder.
        """
        if isinstance(line, dict) and isinstance(line.get("id"), str):
            if isinstance(line.get("failed"), str):
                self.videos.pop(line["id"], None)
                self.failures[line["id"]] = line["failed"]
                return
            values = {name: line.get(name) for name in Entry.__dataclass_fields__}
            # type() and not isinstance(): true and false are no numbers of frames.
            if all(type(v) is Entry.__annotations__[n] for n, v in values.items()):
                entry = Entry(**values)
                escape(entry.id)
                if SHARD.fullmatch(entry.shard) and entry.frames > 0 and entry.bytes >= 0:
                    self.failures.pop(entry.id, None)
                    self.videos[entry.id] = entry
                    return
        raise InputError("is not a manifest line (id, shard, frames, bytes, checksum)")


def read(folder: Path) -> Manifest:
    """Read the manifest of a cache; a torn last line (a killed run's) is left out.

    Raises:
        InputError: there is no manifest, or one of its lines is not one.
    """
    path = folder / MANIFEST
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"{folder} is not a cache: {MANIFEST} cannot be read ({error.strerror})"
        ) from None
    manifest = Manifest()
    # What follows the last newline was torn off when a run was killed.
    for number, line in enumerate(data.split(b"\n")[:-1], 1):
        try:
            manifest.add(json.loads(line))
        except (InputError, ValueError, RecursionError):
            raise InputError(
                f"{path}, line {number} is not a manifest line "
                "(JSON with id, shard, frames, bytes, checksum); restore or delete that line"
            ) from None
    return manifest


def heal(folder: Path) -> None:
    """Create the manifest, or cut a torn last line off it."""
    with open(folder / MANIFEST, "a+b") as file:
        file.seek(0)
        data = file.read()
        file.truncate(data.rfind(b"\n") + 1)
        os.fsync(file.fileno())
    sync_folder(folder)


def append(folder: Path, lines: Iterable[Entry | dict[str, str]]) -> None:
    """Append lines and wait until they are on the disk."""
    rows = [asdict(line) if isinstance(line, Entry) else line for line in lines]
    with open(folder / MANIFEST, "ab") as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows).encode())
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Make new and renamed names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
