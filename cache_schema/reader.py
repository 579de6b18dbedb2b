"""Reads a cache frame by frame; needs only NumPy and h5py. Nothing in a shard is trusted.

HDF5 is asked once where the arrays of a video lie; from then on their bytes are read from there
(`direct`). Shards are opened when first needed, in each process anew, so that a reader can be
handed to worker processes (forked or pickled). Threads may share a reader.
"""

import os
import threading
import zlib
from collections import OrderedDict
from typing import Any

import numpy as np

from cache_schema import manifest
from cache_schema.address import Where, place
from cache_schema.codecs import Codec
from cache_schema.host.cli import InputError
from cache_schema.manifest import Entry
from cache_schema.open_shard import OpenShard, VideoIndex, changed
from cache_schema.ram import RamTier
from cache_schema.shard import open_shard, remedy
from cache_schema.video import Video

MAX_OPEN = 32  # shards, each with one descriptor of ours and one of HDF5
MAX_KNOWN = 2048  # videos whose places in their files are remembered; about 45 KB each in MeViS


class CacheReader:
    """The finished videos of the cache at ``path``.

    Args:
        path: the folder, or an address such as ``https://...``, see `Address`.
        ram_bytes: keep queries, clips, tracks, objects and words in memory up to so many bytes,
            least recently used out first; not the mask features. Each process has its own.
        check: compare everything with its checksum when a process first reads it.

    Attributes:
        path: the folder or address.
        dataset, split: what the cache was made of.
        codec: of the mask features.
        facts: of the data set.
        segmenter: what the frozen segmenter says of itself.
        light: there are no mask features.
        version: of the format that the shards are in.
        fingerprint: everything that decided the numbers; ``fingerprint_hex`` is its SHA-256.
        video_ids: sorted.
        entries: id to manifest line.
        failures: id to reason of the videos that could not be extracted.

    Raises:
        InputError: the folder is no cache, holds no finished video, or is of another version.
    """

    def __init__(self, path: Where, *, ram_bytes: int = 0, check: bool = True):
        self.path = place(path)
        known = manifest.read(self.path)
        self.entries = dict(sorted(known.videos.items()))
        self.failures = known.failures
        self.video_ids = list(self.entries)
        if not self.entries:
            first = next(iter(known.failures.items()), None)
            failed = f"; {first[0]!r} failed: {first[1]}" if first else ""
            raise InputError(f"the cache {self.path} holds no finished video yet{failed}")
        shards = sorted({entry.shard for entry in self.entries.values()})
        there = (name for name in shards if (self.path / name).exists())
        file, self._header = open_shard(self.path / next(there, shards[0]))
        file.close()
        self.dataset, self.split = self._header.dataset, self._header.split
        self.codec: Codec = self._header.codec
        self.facts, self.segmenter = self._header.facts, self._header.segmenter
        self.light = self.codec.dtype is None
        self.version = self._header.version
        self.fingerprint: dict[str, Any] = self._header.fingerprint.data
        self.fingerprint_hex = self._header.fingerprint.hex
        self._ram_bytes, self._check = ram_bytes, check
        self._indexes: OrderedDict[str, VideoIndex] = OrderedDict()
        self._start()

    def _start(self) -> None:
        """What belongs to one process: after a fork the parent's handles are not ours to use."""
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._shards: OrderedDict[str, OpenShard] = OrderedDict()
        self._ram = RamTier(self._ram_bytes)
        self._sound: dict[tuple[str, str], int] = {}  # of each array a bit a row

    def _check_process(self) -> None:
        if self._process != os.getpid():
            self._start()

    @property
    def ram(self) -> RamTier:
        """What this process keeps in memory."""
        self._check_process()
        return self._ram

    def __len__(self) -> int:
        return len(self.entries)

    def __getstate__(self) -> dict[str, Any]:
        kept_here = ("_process", "_lock", "_shards", "_ram", "_sound")
        state = {name: value for name, value in self.__dict__.items() if name not in kept_here}
        return {**state, "_indexes": OrderedDict()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start()

    def video(self, video_id: str) -> Video:
        """A finished video; `InputError` when the cache has none of that id."""
        if video_id not in self.entries:
            why = self.failures.get(video_id)
            raise InputError(
                f"the cache {self.path} has no video {video_id!r}"
                + (f": it failed, {why}" if why else "")
            )
        return Video(self, self.entries[video_id])

    def close(self) -> None:
        """Close the open shards; reading opens them again."""
        self._check_process()
        with self._lock:
            self._shards.clear()

    def shard(self, name: str) -> OpenShard:
        """An open shard; at most 32 stay open, others close when nobody reads from them."""
        self._check_process()
        with self._lock:
            if name not in self._shards:
                self._shards[name] = OpenShard(self.path / name, self._header)
                if len(self._shards) > MAX_OPEN:
                    self._shards.popitem(last=False)
            self._shards.move_to_end(name)
            return self._shards[name]

    def same_shard(self, name: str, identity: tuple[int, ...]) -> OpenShard:
        """An open shard; `InputError` when it is another file than the one of that identity."""
        shard = self.shard(name)
        if shard.file.identity != identity:
            raise changed(shard.file.path)
        return shard

    def check(self, key: tuple[str, str, int], crcs: np.ndarray | None, data: np.ndarray) -> None:
        """Compare bytes that were read with their checksum, if this process has not done so before.

        Args:
            key: video, array and row.
            crcs: of each row, see `Extent`.
            data: (bytes,) uint8.

        Raises:
            InputError: they are damaged.
        """
        video_id, name, row = key
        seen = self._sound.get((video_id, name), 0)
        if crcs is None or not self._check or seen >> row & 1:
            return
        if zlib.crc32(data) != crcs[row]:
            raise InputError(
                f"video {video_id!r} in {self.path / self.entries[video_id].shard} is damaged "
                f"({name}, row {row}: not the bytes that were written): {remedy(self.path)}"
            )
        self._sound[video_id, name] = seen | 1 << row

    def index(self, entry: Entry) -> VideoIndex:
        """What is known of a video; the least used of many is forgotten."""
        self._check_process()
        index = self._indexes.get(entry.id)
        if index is None:
            index = VideoIndex(self.shard(entry.shard), entry)
        with self._lock:
            self._indexes[entry.id] = index
            self._indexes.move_to_end(entry.id)
            if len(self._indexes) > MAX_KNOWN:
                self._indexes.popitem(last=False)
        return index
