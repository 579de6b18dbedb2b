"""Writes a cache so that a killed run loses at most the shard in progress.

A shard is built under a hidden temporary name, flushed, synced, read back against its checksums
and renamed; only then do its videos enter the manifest. Opening the cache again heals what a
killed run left behind and continues.
"""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import h5py

from cache_schema import manifest
from cache_schema.address import local_folder
from cache_schema.checksums import damages
from cache_schema.codecs import Codec
from cache_schema.fingerprint import Fingerprint
from cache_schema.host import system
from cache_schema.host.cli import InputError
from cache_schema.host.files import sync_folder
from cache_schema.host.lock import CacheLock
from cache_schema.manifest import Entry
from cache_schema.names import check_text, escape
from cache_schema.records import Facts, Geometry, SegmenterFacts
from cache_schema.recovery import entry_of, recover, seal_of, temporary
from cache_schema.shard import LIBVER, OPEN, Header, open_shard
from cache_schema.sink import Sink
from cache_schema.video_writer import VideoWriter


class CacheWriter:
    """Writes videos into the cache folder ``path``, continuing what is there; a context manager.

    Attributes:
        done: ids of the videos that are safe in the cache.
        failures: id to reason of the videos that failed in an earlier run or in this one.

    Args:
        path: the folder; made when missing.
        fingerprint: everything that decides the numbers (plain JSON types).
        segmenter: what the frozen segmenter says of itself.
        shard_bytes: a shard is closed once it holds this much.
        rank, world_size: of a run of several processes that write one cache at the same time.
            Each writes shards whose number is its rank modulo ``world_size``. Which videos are
            whose is the caller's business; it must not depend on what is there already.

    Raises:
        InputError: another fingerprint (names the fields and both values), another run that
            writes, a folder that cannot be written. After a storage error (a full disk) every
            call raises the same sentence, so that no other video is blamed for it.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        fingerprint: dict[str, Any],
        dataset: str,
        split: str,
        codec: Codec,
        facts: Facts,
        segmenter: SegmenterFacts,
        shard_bytes: int = 1 << 30,
        rank: int = 0,
        world_size: int = 1,
    ):
        self.path = local_folder(path)
        self.codec = codec
        self._header = Header(dataset, split, codec, Fingerprint(fingerprint), facts, segmenter)
        check_text(dataset, "data set name")
        check_text(split, "split name")
        self._shard_bytes = shard_bytes
        self._broken = ""
        self._closed = False
        self._file: h5py.File | None = None
        self._path: Path | None = None  # of the shard in progress
        self._sink: Sink | None = None
        self._open: dict[str, Entry] = {}  # finished videos of the shard in progress
        self._writing = ""
        self.done: set[str] = set()
        self.failures: dict[str, str] = {}
        with self._guard("choose a folder that can be written"):
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = CacheLock(self.path, rank, world_size)
            try:
                share = (0, 1) if self._lock.alone else (rank, world_size)
                known = recover(self.path, self._header, *share)
                self._lock.share()
            except BaseException:
                self._lock.release()
                raise
        self.done |= known.videos.keys()
        self.failures |= known.failures
        numbers = (int(manifest.SHARD.fullmatch(name)[1]) for name in known.shard_names)
        ours = [number for number in numbers if number % world_size == rank]
        self._next, self._step = max(ours, default=rank - world_size) + world_size, world_size

    def __enter__(self) -> "CacheWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
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
                self._open[video_id] = entry_of(group, video_id, self._shard)
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
            self._lock.release()

    @contextmanager
    def _guard(
        self, advice: str = "what is finished is safe, and the same command continues"
    ) -> Iterator[None]:
        """Turn storage errors into one sentence, and refuse everything after it."""
        try:
            yield
            if self._sink:
                self._sink.check()
        except (OSError, RuntimeError) as error:
            text = getattr(error, "strerror", None) or str(error)
            self._broken = f"cannot write the cache {self.path}: {text}; {advice}"
            raise InputError(self._broken) from error

    def _check_usable(self) -> None:
        if self._broken:
            raise InputError(self._broken)
        if self._closed:
            raise ValueError("the cache writer is closed")

    def _new_group(self, name: str) -> h5py.Group:
        """The group of a new video, in a new shard when none is in progress."""
        with self._guard():
            if self._file is None:
                self._shard = f"shard-{self._next:05d}.h5"
                self._path = temporary(self.path, self._shard)
                self._sink = Sink(self._path)
                self._file = h5py.File(self._sink, "w", libver=LIBVER, **OPEN)
                self._header.write(self._file)
                self._file.create_group("videos")
            return self._file["videos"].create_group(name)

    def _seal(self) -> None:
        """Make the shard in progress permanent, then enter its videos into the manifest."""
        if self._file is None or not self._open:  # without a file it could not be sealed before
            self._discard()
            return
        with system.undisturbed(), self._guard(), ThreadPoolExecutor(1) as beside:
            file, self._file = self._file, None
            file.close()
            # The digest of the temporary file, so that nothing that comes later is vouched for.
            sealed = beside.submit(seal_of, self._path, self._shard)
            self._sink.sync()
            self._sink.close()
            self._sink = None
            self._read_back()
            sealed = sealed.result()
            os.replace(self._path, self.path / self._shard)
            sync_folder(self.path)
            manifest.append(self.path, [*self._open.values(), sealed])
        self.done |= self._open.keys()
        for video_id in self._open:
            self.failures.pop(video_id, None)
        self._open = {}
        self._next += self._step

    def _read_back(self) -> None:
        try:
            file, _ = open_shard(self._path)
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
            self._file.close()
            self._file = None
        if self._sink is not None:
            self._sink.close()
            self._sink = None
        if self._path:
            with suppress(OSError):
                self._path.unlink()
