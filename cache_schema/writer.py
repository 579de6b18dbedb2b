"""Writes a cache so that a killed run loses at most the two shards in progress.

A shard is built under a hidden temporary name, flushed, synced, read back against its checksums
and renamed; only then do its videos enter the manifest. All this is done beside, while the next
shard is written. Opening the cache again heals what a killed run left behind and continues.
"""

import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
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


@dataclass
class _Shard:
    """A shard in progress, with its finished videos."""

    name: str
    path: Path
    sink: Sink
    file: h5py.File
    videos: dict[str, Entry] = field(default_factory=dict)

    def discard(self) -> None:
        """Drop it, for it holds nothing finished or cannot be finished."""
        self.file.close()
        self.sink.close()
        with suppress(OSError):
            self.path.unlink()


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
        self._shard: _Shard | None = None  # that is written
        self._sealing: tuple[_Shard, Future[None]] | None = None
        self._beside = ThreadPoolExecutor(3)  # two of them seal
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
        if video_id in self.done or video_id in self._unsealed or self._writing:
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
                beside=self._beside,
            )
            yield writer
            if not writer.finished:
                raise ValueError(f"video {video_id!r} was left without finish()")
            with self._guard():
                entry = entry_of(group, video_id, self._shard.name)
                self._shard.videos[video_id] = entry
        except BaseException:
            if not self._broken:
                with self._guard():
                    del self._shard.file["videos"][name]
            raise
        finally:
            self._writing = ""
        if sum(entry.bytes for entry in self._shard.videos.values()) >= self._shard_bytes:
            self._seal()

    def fail(self, video_id: str, reason: str) -> None:
        """Enter a video that cannot be extracted, with why; another run tries it again."""
        self._check_usable()
        self.settle()
        if video_id in self.done or video_id in self._unsealed:
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
            self.settle()
        finally:
            if self._shard:
                self._shard.discard()
            self._beside.shutdown()
            self._lock.release()

    @contextmanager
    def _guard(
        self, advice: str = "what is finished is safe, and the same command continues"
    ) -> Iterator[None]:
        """Turn storage errors into one sentence, and refuse everything after it."""
        try:
            yield
            if self._shard:
                self._shard.sink.check()
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
            if self._shard is None:
                shard = f"shard-{self._next:05d}.h5"
                path = temporary(self.path, shard)
                sink = Sink(path)
                file = h5py.File(sink, "w", libver=LIBVER, **OPEN)
                self._shard = _Shard(shard, path, sink, file)
                self._header.write(file)
                file.create_group("videos")
            return self._shard.file["videos"].create_group(name)

    @property
    def _unsealed(self) -> set[str]:
        """Ids of the finished videos that are not safe yet."""
        shards = self._shard, self._sealing and self._sealing[0]
        return {video_id for shard in shards if shard for video_id in shard.videos}

    def _seal(self) -> None:
        """Have the shard in progress made permanent, once the one before it is."""
        self.settle()
        if self._shard is None or not self._shard.videos:
            return
        with system.undisturbed():
            with self._guard():
                self._shard.file.close()
            shard, self._shard = self._shard, None
            self._sealing = shard, self._beside.submit(self._make_permanent, shard)
            self._next += self._step

    def settle(self) -> None:
        """Wait until the shard that is being sealed, if there is one, is safe.

        Raises:
            InputError: it cannot be written.
        """
        if self._sealing is None:
            return
        (shard, sealed), self._sealing = self._sealing, None
        with system.undisturbed(), self._guard():
            sealed.result()
        self.done |= shard.videos.keys()
        for video_id in shard.videos:
            self.failures.pop(video_id, None)

    def _make_permanent(self, shard: _Shard) -> None:
        """Seal a shard, then enter its videos into the manifest."""
        try:
            # The digest of the temporary file, so that nothing that comes later is vouched for.
            sealed = self._beside.submit(seal_of, shard.path, shard.name)
            shard.sink.sync()
            self._read_back(shard)
            sealed = sealed.result()
            os.replace(shard.path, self.path / shard.name)
            sync_folder(self.path)
            manifest.append(self.path, [*shard.videos.values(), sealed])
        finally:
            shard.discard()

    def _read_back(self, shard: _Shard) -> None:
        try:
            file, _ = open_shard(shard.path)
        except InputError as error:
            raise OSError(str(error)) from error
        with file:
            for video_id, entry in shard.videos.items():
                found = damages(file["videos"][escape(video_id)], entry.checksum)
                if found:
                    raise OSError(f"video {video_id!r} was not read back as written: {found[0]}")
