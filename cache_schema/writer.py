"""Writes a cache so that a killed run loses at most the shard in progress.

A shard is built under a hidden temporary name, flushed, synced, read back against its checksums
and renamed; only then do its videos enter the manifest. Opening the cache again heals what a
killed run left behind and continues.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py

from cache_schema import manifest
from cache_schema.cli import InputError
from cache_schema.codecs import Codec
from cache_schema.fingerprint import Fingerprint
from cache_schema.manifest import Entry
from cache_schema.names import check_text, escape, unescape
from cache_schema.records import Geometry
from cache_schema.shard import (
    LIBVER,
    OPEN,
    Header,
    UnreadableShard,
    attribute,
    checksum,
    child,
    damages,
    members,
    open_shard,
    walk,
)
from cache_schema.video_writer import VideoWriter

LOCK = ".lock"


class CacheWriter:
    """Writes videos into the cache folder ``path``, continuing what is there; a context manager.

    Attributes:
        codec: of the mask features.
        done: ids of the videos that are safe in the cache.
        failures: id to reason of the videos that failed in an earlier run or in this one.

    Args:
        path: the folder; made when missing.
        fingerprint: everything that decides the numbers (plain JSON types).
        dataset: name of the data set.
        split: of the data set.
        codec: of the mask features, with its basis if it has one.
        shard_bytes: a shard is closed once it holds this much.

    Raises:
        InputError: another fingerprint (names the fields and both values), a second writer, a
            folder that cannot be written. After a storage error (a full disk) every call raises
            the same sentence, so that no other video is blamed for it.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        fingerprint: dict[str, Any],
        dataset: str,
        split: str,
        codec: Codec,
        shard_bytes: int = 1 << 30,
    ):
        self.path = Path(path)
        self.codec = codec
        self._header = Header(dataset, split, codec, Fingerprint(fingerprint))
        check_text(dataset, "data set name")
        check_text(split, "split name")
        self._shard_bytes = shard_bytes
        self._broken = ""
        self._closed = False
        self._file: h5py.File | None = None
        self._open: dict[str, Entry] = {}  # finished videos of the shard in progress
        self._writing = ""
        self.done: set[str] = set()
        self.failures: dict[str, str] = {}
        advice = "choose a folder that can be written"
        with self._guard(advice):
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = _lock(self.path)
        try:
            with self._guard(advice):
                self._recover()
        except BaseException:
            os.close(self._lock)
            raise

    def __enter__(self) -> "CacheWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        else:
            # Finished videos are worth keeping; the first error is the one to tell.
            with suppress(InputError):
                self.close()

    @contextmanager
    def video(
        self, video_id: str, *, geometry: Geometry, frame_names: list[str]
    ) -> Iterator[VideoWriter]:
        """Write one video; an exception inside takes it out of the shard again and propagates.

        Raises:
            InputError: bad id, no frames, storage errors.
            ValueError: the id is in the cache already, or `VideoWriter.finish` was not called.
        """
        self._check_usable()
        name = escape(video_id, "video id")
        if video_id in self.done or video_id in self._open or self._writing:
            raise ValueError(f"video {video_id!r} is in the cache or another is being written")
        group = self._new_group(name)
        self._writing = video_id
        try:
            writer = VideoWriter(
                group,
                video_id=video_id,
                geometry=geometry,
                frame_names=frame_names,
                codec=self.codec,
                guard=self._guard,
            )
            yield writer
            if not writer.finished:
                raise ValueError(f"video {video_id!r} was left without finish()")
            with self._guard():
                self._open[video_id] = Entry(
                    video_id, self._shard, writer.frames, writer.bytes, checksum(group)
                )
        except BaseException:
            if not self._broken:
                with self._guard():
                    del self._file["videos"][name]
            raise
        finally:
            self._writing = ""
        if sum(entry.bytes for entry in self._open.values()) >= self._shard_bytes:
            self._seal()

    def fail(self, video_id: str, reason: str) -> None:
        """Enter a video that cannot be extracted, with why; another run tries it again."""
        self._check_usable()
        if video_id in self.done or video_id in self._open:
            raise ValueError(f"video {video_id!r} is in the cache")
        with self._guard():
            manifest.append(self.path, [{"id": video_id, "failed": reason}])
        self.failures[video_id] = reason

    def close(self) -> None:
        """Seal the shard in progress and let go of the cache; calling it twice is fine."""
        if self._closed:
            return
        self._closed = True
        try:
            if not self._broken:
                self._seal()
        finally:
            self._discard()
            os.close(self._lock)

    @contextmanager
    def _guard(
        self, advice: str = "what is finished is safe, and the same command continues"
    ) -> Iterator[None]:
        """Turn storage errors into one sentence, and refuse everything after it."""
        try:
            yield
        except (OSError, RuntimeError) as error:
            # HDF5 buries the system's words in its own.
            text = getattr(error, "strerror", None) or str(error)
            text = text.split("error message = '")[-1].split("'")[0]
            self._broken = f"cannot write the cache {self.path}: {text}; {advice}"
            raise InputError(self._broken) from error

    def _check_usable(self) -> None:
        if self._broken:
            raise InputError(self._broken)
        if self._closed:
            raise ValueError("the cache writer is closed")

    @property
    def _temporary(self) -> Path:
        return self.path / f".{self._shard}.tmp"

    def _new_group(self, name: str) -> h5py.Group:
        """The group of a new video, in a new shard when none is in progress."""
        with self._guard():
            if self._file is None:
                self._shard = f"shard-{self._next:05d}.h5"
                self._file = h5py.File(self._temporary, "w", libver=LIBVER, **OPEN)
                self._header.write(self._file)
                self._file.create_group("videos")
            return self._file["videos"].create_group(name)

    def _seal(self) -> None:
        """Make the shard in progress permanent, then enter its videos into the manifest."""
        if not self._open:
            self._discard()
            return
        with self._guard():
            self._file.close()
            self._file = None
            descriptor = os.open(self._temporary, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            self._read_back()
            os.replace(self._temporary, self.path / self._shard)
            manifest.sync_folder(self.path)
            manifest.append(self.path, self._open.values())
        self.done |= self._open.keys()
        for video_id in self._open:
            self.failures.pop(video_id, None)
        self._open = {}
        self._next += 1

    def _read_back(self) -> None:
        try:
            file, _ = open_shard(self._temporary)
        except InputError as error:
            raise OSError(str(error)) from error
        with file:
            for video_id, entry in self._open.items():
                found = damages(file["videos"][escape(video_id)], entry.checksum)
                if found:
                    raise OSError(f"video {video_id!r} was not read back as written: {found[0]}")

    def _discard(self) -> None:
        """Drop a shard in progress that holds nothing finished, or that cannot be finished."""
        if self._file is not None:
            # On a full disk HDF5 cannot even close the file properly.
            with suppress(OSError, RuntimeError, ValueError):
                self._file.close()
            self._file = None
        for path in self.path.glob(".shard-*.h5.tmp"):
            with suppress(OSError):
                path.unlink()

    def _recover(self) -> None:
        """Clean up after a killed run, take in shards it did not enter, compare fingerprints."""
        for path in self.path.glob(".shard-*.h5.tmp"):
            path.unlink()
        manifest.heal(self.path)
        known = manifest.read(self.path)
        files = sorted(p.name for p in self.path.iterdir() if manifest.SHARD.fullmatch(p.name))
        listed = {entry.shard for entry in known.videos.values()}
        for name in files:
            # A torn line can only be of the newest shard that has lines.
            if name not in listed or name == max(listed):
                self._adopt(name, known, keep=name in listed)
        # Videos whose shard is gone are extracted again.
        self.done = {i for i, entry in known.videos.items() if (self.path / entry.shard).exists()}
        self.failures = known.failures
        numbers = [int(manifest.SHARD.fullmatch(name)[1]) for name in {*files, *listed}]
        self._next = max(numbers, default=-1) + 1

    def _adopt(self, name: str, known: manifest.Manifest, keep: bool) -> None:
        """Enter the sound videos of a shard that the manifest lacks; drop a shard without any."""
        try:
            file, header = open_shard(self.path / name)
        except UnreadableShard as error:
            # An error number is the system's (no permission): the shard itself may be fine.
            if keep or error.__cause__.errno:
                raise
            (self.path / name).unlink()
            return
        found = []
        with file:
            self._header.check(header, self.path / name)
            videos = child(file, "videos", h5py.Group)
            for escaped in members(videos):
                with suppress(InputError):
                    group = child(videos, escaped, h5py.Group)
                    if unescape(escaped) not in known.videos and not damages(group, None):
                        found.append(_entry(group, unescape(escaped), name))
        manifest.append(self.path, found)
        known.videos |= {entry.id: entry for entry in found}
        if not found and not keep:
            (self.path / name).unlink()


def _entry(group: h5py.Group, video_id: str, shard: str) -> Entry:
    size = sum(node.nbytes for _, node in walk(group) if isinstance(node, h5py.Dataset))
    return Entry(video_id, shard, attribute(group, "num_frames", int), size, checksum(group))


def _lock(folder: Path) -> int:
    """Hold the folder's lock until the descriptor is closed, which the end of a process does."""
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise InputError(
            f"another process is writing the cache {folder}: wait for it, or use another folder"
        ) from None
    return descriptor
