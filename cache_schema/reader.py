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
from cache_schema.codecs import Codec, get_codec
from cache_schema.manifest import Entry
from cache_schema.names import escape, unescape
from cache_schema.objects import unpack
from cache_schema.records import RLE, Clip, Expression, Geometry
from cache_schema.shard import (
    attribute,
    child,
    json_attribute,
    members,
    open_shard,
    read_geometry,
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
            failed = "".join(f"; {i!r} failed: {why}" for i, why in list(known.failures.items())[:1])
            raise InputError(f"the cache {self.path} holds no finished video yet{failed}")
        shards = sorted({entry.shard for entry in self.entries.values()})
        there = [name for name in shards if (self.path / name).exists()]
        file, self._header = open_shard(self.path / (there or shards)[0])
        file.close()
        self.dataset, self.split = self._header.dataset, self._header.split
        self.codec: Codec = get_codec(self._header.codec)
        self.fingerprint: dict[str, Any] = self._header.fingerprint.data
        self.fingerprint_hex = self._header.fingerprint.hex
        self._files: OrderedDict[str, h5py.File] = OrderedDict()
        self._process = os.getpid()

    def __len__(self) -> int:
        return len(self.entries)

    def __getstate__(self) -> dict[str, Any]:
        # Open files do not travel; the other process opens its own.
        return {**self.__dict__, "_files": OrderedDict()}

    def video(self, video_id: str) -> "Video":
        """A finished video; `InputError` when the cache has none of that id."""
        if video_id not in self.entries:
            why = self.failures.get(video_id)
            raise InputError(
                f"the cache {self.path} has no video {video_id!r}" + (f": it failed, {why}" if why
                                                                      else "")
            )
        return Video(self, self.entries[video_id])

    def close(self) -> None:
        """Close the open shards; reading opens them again."""
        while self._files:
            self._files.popitem()[1].close()

    def shard(self, name: str) -> h5py.File:
        """An open shard of this cache; at most 32 stay open, the least used one goes first."""
        if self._process != os.getpid():
            # After a fork the parent's handles are not ours to use.
            self._files, self._process = OrderedDict(), os.getpid()
        if name not in self._files:
            file, header = open_shard(self.path / name)
            try:
                self._header.check(header, self.path / name)
            except InputError:
                file.close()
                raise
            self._files[name] = file
            if len(self._files) > MAX_OPEN:
                self._files.popitem(last=False)[1].close()
        self._files.move_to_end(name)
        return self._files[name]


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
        group = self.group
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

    @property
    def group(self) -> h5py.Group:
        """The video's group, in a shard that is open now."""
        videos = child(self._reader.shard(self._entry.shard), "videos", h5py.Group)
        return child(videos, escape(self.id), h5py.Group)

    def frame_queries(self, indices: Iterable[int] | None = None) -> np.ndarray:
        """Q_f (t, N_f, C) of some frames, all by default."""
        dataset = self._dataset(self.group, "frame_queries", spec.FRAME_QUERIES)
        return self._frames(dataset, indices)

    def mask_features(self, indices: Iterable[int] | None = None) -> dict[str, np.ndarray]:
        """F_mask of some frames as the codec stores it: name to (t, ...)."""
        g = self.geometry
        embeds = self._dataset(self.group, "video_mask_embeds", spec.VIDEO["video_mask_embeds"])
        layout = self._reader.codec.layout(
            embeds.shape[1], g.padded_height // g.stride, g.padded_width // g.stride
        )
        folder = child(self.group, "mask_features", h5py.Group)
        indices = None if indices is None else list(indices)
        return {
            name: self._frames(self._dataset(folder, name, spec.Spec(("T", *shape), dtype.name)),
                               indices)
            for name, (shape, dtype) in layout.items()
        }

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
        clips = child(self.group, "clips", h5py.Group)
        name = "frame_indices"
        return len(self._dataset(clips, name, spec.CLIPS[name])) if members(clips) else 0

    def clip(self, k: int) -> Clip:
        """Clip k of the clip bank; `IndexError` when there is none."""
        if not 0 <= k < self.num_clips:
            raise IndexError(f"clip {k} of {self.num_clips} of the video {self.id!r}")
        folder = child(self.group, "clips", h5py.Group)
        clip = Clip(**{n: self._dataset(folder, n, s)[k] for n, s in spec.CLIPS.items()})
        if clip.frame_indices.min() < 0 or clip.frame_indices.max() >= self.num_frames:
            raise InputError(f"{where(folder)}: clip {k} has frames that the video has not")
        return clip

    def objects(self) -> dict[str, list[RLE | None]]:
        """Ground truth: annotation id to one RLE or None a frame, at the original size."""
        folder = child(self.group, "objects", h5py.Group)
        found = {}
        for name in members(folder):
            dataset = self._dataset(folder, name, spec.OBJECT, {})
            try:
                found[unescape(name)] = unpack(dataset[()], self.geometry, self.num_frames)
            except InputError as error:
                raise InputError(f"{where(dataset)}: {error}") from None
        return found

    @property
    def expression_ids(self) -> list[str]:
        """Ids of the video's expressions, in the data set's order."""
        folder = child(self.group, "expressions", h5py.Group)
        order = {
            unescape(name): attribute(child(folder, name, h5py.Group), "order", int)
            for name in members(folder)
        }
        return sorted(order, key=order.__getitem__)

    def expression(self, expression_id: str) -> Expression:
        """One expression, encoded; `InputError` when the video has none of that id."""
        folder = child(self.group, "expressions", h5py.Group)
        group = child(folder, escape(expression_id), h5py.Group)
        dims: dict[str, int] = {}
        return Expression(
            expression_id=expression_id,
            text=attribute(group, "text", str),
            object_ids=json_attribute(group, "object_ids"),
            annotation_ids=json_attribute(group, "annotation_ids"),
            tag=attribute(group, "tag", str),
            **{n: self._dataset(group, n, s, dims)[()] for n, s in spec.EXPRESSION.items()},
        )

    def _whole(self, name: str) -> np.ndarray:
        return self._dataset(self.group, name, spec.VIDEO[name])[()]

    def _dataset(
        self, group: h5py.Group, name: str, layout: spec.Spec, dims: dict[str, int] | None = None
    ) -> h5py.Dataset:
        """A dataset that has the spec's type and a shape that fits the video's others."""
        dataset = child(group, name, h5py.Dataset)
        expected = layout.resolve(self._reader.codec.query_dtype)
        if dataset.dtype != expected:
            raise InputError(f"{where(dataset)} has the type {dataset.dtype}, not {expected}")
        try:
            layout.bind(where(dataset), dataset.shape, self._dims if dims is None else dims)
        except ValueError as error:
            raise InputError(str(error)) from None
        return dataset

    def _frames(self, dataset: h5py.Dataset, indices: Iterable[int] | None) -> np.ndarray:
        if indices is None:
            return dataset[()]
        wanted = [int(i) for i in indices]
        if wanted and not 0 <= min(wanted) <= max(wanted) < self.num_frames:
            raise IndexError(f"frames {wanted} of the video {self.id!r} with {self.num_frames}")
        # One frame at a time: HDF5's selection of several indices is a hundred times slower.
        out = np.empty((len(wanted), *dataset.shape[1:]), dataset.dtype)
        for k, i in enumerate(wanted):
            dataset.read_direct(out, np.s_[i], np.s_[k])
        return out
