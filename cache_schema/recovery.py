"""What opening a cache for writing heals: leftovers of killed runs, shards they did not enter."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py

from cache_schema import manifest
from cache_schema.checksums import Structure, damages
from cache_schema.codec_file import CODEC_FILE
from cache_schema.fingerprint import file_sha256
from cache_schema.host import system
from cache_schema.host.cli import InputError
from cache_schema.manifest import Entry, Manifest, SealedShard
from cache_schema.names import unescape
from cache_schema.nodes import attribute, child, members, walk
from cache_schema.shard import Header, UnreadableShard, open_shard
from cache_schema.spec import FORMAT_VERSION

MISSING = "the shard is missing"


def temporary(folder: Path, shard: str) -> Path:
    """Where a shard is built."""
    return folder / f".{shard}.tmp"


def seal_of(path: Path, shard: str) -> SealedShard:
    """The manifest line of a shard whose bytes are in ``path``."""
    return SealedShard(shard, path.stat().st_size, file_sha256(path))


def entry_of(video: h5py.Group, video_id: str, shard: str) -> Entry:
    """The manifest line of a finished video in an open shard.

    Raises:
        InputError: something is missing.
    """
    size, structure = 0, Structure()
    for path, node in walk(video):
        structure.add(path, node)
        size += node.nbytes if isinstance(node, h5py.Dataset) else 0
    frames = attribute(video, "num_frames", int)
    cost = attribute(video, "codec_iou", str)
    try:
        codec_iou = manifest.codec_iou(json.loads(cost) if cost else None)
    except (ValueError, RecursionError):
        raise InputError(f"{shard}: the codec's IoU of {video_id!r} is not JSON") from None
    return Entry(video_id, shard, frames, size, structure.checksum(), codec_iou)


def recover(folder: Path, header: Header, rank: int, world_size: int) -> Manifest:
    """Make a cache ready for writing; everything of it, or only the shards of one rank.

    Args:
        header: what its shards have to say.
        rank, world_size: only shards with this number modulo ``world_size`` are touched.

    Returns:
        What is finished now.

    Raises:
        InputError: the cache was made with other settings, or is of an older format version.
        OSError: storage errors.
    """

    def ours(name: str) -> bool:
        return int(manifest.SHARD.fullmatch(name)[1]) % world_size == rank

    files = {p.name for p in folder.iterdir() if manifest.SHARD.fullmatch(p.name)}
    known = manifest.read(folder) if (folder / manifest.MANIFEST).exists() else Manifest()
    # Before anything is changed: is this our cache at all?
    listed = known.shard_names - known.dropped_shards.keys()
    if files & listed:
        path = folder / max(files & listed)
        file, found = open_shard(path)
        file.close()
        _check(path, found, header)

    for path in folder.glob(".shard-*.h5.tmp"):
        if manifest.SHARD.fullmatch(path.name[1:-4]) and ours(path.name[1:-4]):
            path.unlink()
    if world_size == 1:
        for path in folder.glob(f".{CODEC_FILE}.*.tmp"):
            path.unlink()
    manifest.heal(folder)
    lines: list[Any] = []
    for name in sorted(listed - files):
        if ours(name):
            lines += known.drop(name, MISSING)
    for name in sorted(files - known.shards.keys()):
        if ours(name):
            with system.undisturbed():
                lines += _adopt(folder / name, header, known)
    if lines:
        manifest.append(folder, lines)
    return manifest.read(folder)


def _check(path: Path, found: Header, header: Header) -> None:
    if found.version != FORMAT_VERSION:
        raise InputError(
            f"{path} has the cache format version {found.version}, which this program reads but "
            f"does not continue (it writes {FORMAT_VERSION}): extract into another folder"
        )
    header.check(found, path)


def _adopt(path: Path, header: Header, known: Manifest) -> list[Any]:
    """Lines for a shard that has none: of its sound videos, and its own; without any it goes."""
    name = path.name
    try:
        sealed = seal_of(path, name)
        file, found = open_shard(path)
    except UnreadableShard as error:
        path.unlink()
        return known.drop(name, str(error)) if known.inside(name) else []
    except InputError as error:
        raise InputError(f"{error}; no line lists it: move it away, then run again") from error
    with file:
        _check(path, found, header)
        sound = _sound_videos(file, name, known)
    lost = sorted({entry.id for entry in known.inside(name)} - {entry.id for entry in sound})
    lines: list[Any] = [{"id": i, "dropped": f"{name} does not hold it"} for i in lost]
    if not sound:
        path.unlink()
        return lines
    lines += [entry for entry in sound if known.videos.get(entry.id) != entry]
    known.videos |= {entry.id: entry for entry in sound}
    return [*lines, sealed]


def _sound_videos(file: h5py.File, name: str, known: Manifest) -> list[Entry]:
    """Lines for the videos in a shard that are sound and that no other shard holds."""
    listed = {entry.id: entry.checksum for entry in known.inside(name)}
    videos = child(file, "videos", h5py.Group)
    sound = []
    for escaped in members(videos):
        with suppress(InputError):
            video_id = unescape(escaped)
            group = child(videos, escaped, h5py.Group)
            elsewhere = video_id in known.videos and video_id not in listed
            if not elsewhere and not damages(group, listed.get(video_id)):
                sound.append(entry_of(group, video_id, name))
    return sound
