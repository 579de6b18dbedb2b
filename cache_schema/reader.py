"""Reads a cache frame by frame; needs only NumPy and h5py. Nothing in a shard is trusted.

Shards are opened when first needed, in each process anew, so that a reader can be handed to
worker processes (forked or pickled). One reader belongs to one thread.
"""

import os
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from cache_schema import manifest, spec
from cache_schema.cli import InputError
from cache_schema.codecs import Codec
from cache_schema.manifest import Entry
from cache_schema.names import escape, unescape
from cache_schema.objects import unpack
from cache_schema.records import RLE, Clip, Expression, Geometry
from cache_schema.shard import (
    Header,
    Node,
    attribute,
    child,
    json_attribute,
    members,
    open_shard,
    read_geometry,
    values,
    where,
)

MAX_OPEN = 32


class CacheReader:
    """The finished videos of the cache folder ``path``.

    Attributes:
        path: the folder.
        dataset, split: what the cache was made of.
        codec: of the mask features.
        fingerprint: everything that decided the numbers; ``fingerprint_hex`` is its SHA-256.
        video_ids: sorted.
        entries: id to manifest line.
        failures: id to reason of the videos that could not be extracted.

    Raises:
        InputError: the folder is no cache, holds no finished video, or is of another version.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)
        known = manifest.read(self.path)
        self.entries = dict(sorted(known.videos.items()))
        self.failures = known.failures
        self.video_ids = list(self.entries)
        if not self.entries:
            first = next(iter(known.failures.items()), None)
            failed = f"; {first[0]!r} failed: {first[1]}" if first else ""
            raise InputError(f"the cache {self.path} holds no finished video yet{failed}")
        shards = sorted({entry.shard for entry in self.entries.values()})
        there = [name for name in shards if (self.path / name).exists()]
        file, self._header = open_shard(self.path / (there or shards)[0])
        file.close()
        self.dataset, self.split = self._header.dataset, self._header.split
        self.codec: Codec = self._header.codec
        self.fingerprint: dict[str, Any] = self._header.fingerprint.data
        self.fingerprint_hex = self._header.fingerprint.hex
        self._shards: OrderedDict[str, _OpenShard] = OrderedDict()
        self._process = os.getpid()

    def __len__(self) -> int:
        return len(self.entries)

    def __getstate__(self) -> dict[str, Any]:
        # Open files do not travel; the other process opens its own.
        return {**self.__dict__, "_shards": OrderedDict()}

    def video(self, video_id: str) -> "Video":
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
        while self._shards:
            self._shards.popitem()[1].close()

    def node(self, shard: str, path: str, kind: type[Node]) -> Node:
        """A checked group or dataset; at most 32 shards stay open, the least used goes first."""
        if self._process != os.getpid():
            # After a fork the parent's handles are not ours to use.
            self._shards, self._process = OrderedDict(), os.getpid()
        if shard not in self._shards:
            self._shards[shard] = _OpenShard(self.path / shard, self._header)
            if len(self._shards) > MAX_OPEN:
                self._shards.popitem(last=False)[1].close()
        self._shards.move_to_end(shard)
        return self._shards[shard].node(path, kind)


class _OpenShard:
    """An open shard that checks every group and dataset once, when it is first asked for."""

    def __init__(self, path: Path, expected: Header):
        self._file, header = open_shard(path)
        try:
            expected.check(header, path)
        except InputError:
            self.close()
            raise
        self._nodes: dict[str, h5py.Group | h5py.Dataset] = {"": self._file}

    def node(self, path: str, kind: type[Node]) -> Node:
        if path not in self._nodes:
            parent, _, name = path.rpartition("/")
            self._nodes[path] = child(self.node(parent, h5py.Group), name, kind)
        return self._nodes[path]

    def close(self) -> None:
        self._file.close()


class Video:
    """One video of a cache; everything is read when asked for.

    Every method raises `InputError` when the shard does not hold what the format says.

    Attributes:
        id: of the video.
        geometry: of its frames.
        num_frames: T.
        frame_names: one a frame.
    """

    def __init__(self, reader: CacheReader, entry: Entry):
        self._reader, self._entry, self.id = reader, entry, entry.id
        self._root = f"videos/{escape(entry.id)}"
        group = self.group()
        if attribute(group, "id", str) != self.id:
            raise InputError(f"{where(group)} is not the video {self.id!r}")
        self.num_frames = attribute(group, "num_frames", int)
        self.frame_names = json_attribute(group, "frame_names")
        if not self.num_frames == len(self.frame_names) == entry.frames:
            raise InputError(
                f"{where(group)} has {self.num_frames} frames and {len(self.frame_names)} frame "
                f"names, its manifest line {entry.frames}"
            )
        self.geometry: Geometry = read_geometry(group)
        self._dims = {"T": self.num_frames}

    def frame_queries(self, indices: Iterable[int] | None = None) -> np.ndarray:
        """Q_f (t, N_f, C) of some frames, all by default."""
        return self._frames(self._dataset("frame_queries", spec.FRAME_QUERIES), indices)

    def mask_features(self, indices: Iterable[int] | None = None) -> dict[str, np.ndarray]:
        """F_mask of some frames as the codec stores it: name to (t, ...)."""
        g = self.geometry
        channels = self._dataset("video_mask_embeds", spec.VIDEO["video_mask_embeds"]).shape[1]
        layout = self._reader.codec.layout(
            channels, g.padded_height // g.stride, g.padded_width // g.stride
        )
        indices = None if indices is None else list(indices)
        coded = {}
        for name, (shape, dtype) in layout.items():
            expected = spec.Spec(("T", *shape), dtype.name)
            coded[name] = self._frames(self._dataset(f"mask_features/{name}", expected), indices)
        return coded

    def video_queries(self) -> np.ndarray:
        """Q_v (N_v, C) of the whole video."""
        return self._whole("video_queries")

    def video_logits(self) -> np.ndarray:
        """Class logits (N_v, K+1) float32; the last column is "no object"."""
        return self._whole("video_logits")

    def video_mask_embeds(self) -> np.ndarray:
        """Mask embeddings (N_v, C_mask) of the frozen segmenter itself."""
        return self._whole("video_mask_embeds")

    def tracks(self) -> np.ndarray:
        """Tracks (N_v, T, 6) float16 of the video queries' own masks."""
        return self._whole("tracks")

    @property
    def num_clips(self) -> int:
        """K, the number of clips in the clip bank; 0 without one."""
        empty = not members(self.group("clips"))
        return 0 if empty else len(self._clips("frame_indices"))

    def clip(self, k: int) -> Clip:
        """Clip k of the clip bank; `IndexError` when there is none."""
        if not 0 <= k < self.num_clips:
            raise IndexError(f"clip {k} of {self.num_clips} of the video {self.id!r}")
        clip = Clip(**{name: values(self._clips(name), k) for name in spec.CLIPS})
        if clip.frame_indices.min() < 0 or clip.frame_indices.max() >= self.num_frames:
            raise InputError(
                f"{where(self.group('clips'))}: clip {k} has frames that the video has not"
            )
        return clip

    def _clips(self, name: str) -> h5py.Dataset:
        return self._dataset(f"clips/{name}", spec.CLIPS[name])

    @property
    def num_objects(self) -> int:
        """How many objects have ground truth."""
        return len(members(self.group("objects")))

    def objects(self) -> dict[str, list[RLE | None]]:
        """Ground truth: annotation id to one RLE or None a frame, at the original size."""
        found = {}
        for name in members(self.group("objects")):
            dataset = self._dataset(f"objects/{name}", spec.OBJECT, {})
            try:
                found[unescape(name)] = unpack(values(dataset), self.geometry, self.num_frames)
            except InputError as error:
                raise InputError(f"{where(dataset)}: {error}") from None
        return found

    @property
    def expression_ids(self) -> list[str]:
        """Ids of the video's expressions, in the data set's order."""
        order = {
            unescape(name): attribute(self.group(f"expressions/{name}"), "order", int)
            for name in members(self.group("expressions"))
        }
        return sorted(order, key=order.__getitem__)

    def expression(self, expression_id: str) -> Expression:
        """One expression, encoded; `InputError` when the video has none of that id."""
        path = f"expressions/{escape(expression_id)}"
        group = self.group(path)
        dims: dict[str, int] = {}
        return Expression(
            expression_id=expression_id,
            text=attribute(group, "text", str),
            object_ids=json_attribute(group, "object_ids"),
            annotation_ids=json_attribute(group, "annotation_ids"),
            tag=attribute(group, "tag", str),
            **{
                name: values(self._dataset(f"{path}/{name}", layout, dims))
                for name, layout in spec.EXPRESSION.items()
            },
        )

    def group(self, path: str = "") -> h5py.Group:
        """A checked group of the video, its own by default; valid while the shard is open."""
        full = f"{self._root}/{path}" if path else self._root
        return self._reader.node(self._entry.shard, full, h5py.Group)

    def _whole(self, name: str) -> np.ndarray:
        return values(self._dataset(name, spec.VIDEO[name]))

    def _dataset(
        self, path: str, layout: spec.Spec, dims: dict[str, int] | None = None
    ) -> h5py.Dataset:
        """A dataset that has the spec's type and a shape that fits the video's others."""
        dataset = self._reader.node(self._entry.shard, f"{self._root}/{path}", h5py.Dataset)
        expected = layout.resolve(self._reader.codec.query_dtype)
        if dataset.dtype != expected:
            raise InputError(f"{where(dataset)} has the type {dataset.dtype}, not {expected}")
        try:
            layout.bind(path, dataset.shape, self._dims if dims is None else dims)
        except ValueError as error:
            raise InputError(f"{where(dataset)}: {error}") from None
        return dataset

    def _frames(self, dataset: h5py.Dataset, indices: Iterable[int] | None) -> np.ndarray:
        if indices is None:
            return values(dataset)
        wanted = [int(i) for i in indices]
        if wanted and not 0 <= min(wanted) <= max(wanted) < self.num_frames:
            raise IndexError(f"frames {wanted} of the video {self.id!r} with {self.num_frames}")
        # One frame at a time: HDF5's selection of several indices is a hundred times slower.
        out = np.empty((len(wanted), *dataset.shape[1:]), dataset.dtype)
        for k, i in enumerate(wanted):
            out[k] = values(dataset, i)
        return out
