"""One video of a cache: every array of it, checked and read when asked for."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from operator import index
from typing import TYPE_CHECKING, Any, TypeVar

import h5py
import numpy as np

from cache_schema import spec
from cache_schema.checksums import CRC
from cache_schema.direct import Extent, as_bytes, locate
from cache_schema.host.cli import InputError
from cache_schema.manifest import Entry
from cache_schema.names import escape, unescape
from cache_schema.nodes import attribute, json_attribute, members, where
from cache_schema.open_shard import OpenShard
from cache_schema.records import RLE, Clip, Expression, unpack
from cache_schema.run_lengths import has_pixels, run_ends

if TYPE_CHECKING:
    from cache_schema.reader import CacheReader

BY_ROWS = ("mask_features", "clips")  # groups whose arrays are read by rows
Found = TypeVar("Found")


class Video:
    """One video of a cache; everything is read when asked for.

    Every method raises `InputError` when the shard does not hold what the format says, is gone,
    cut short, damaged, or another file than before.

    Attributes:
        id: of the video.
        codec: of the mask features.
        num_frames: T.
        frame_names: one a frame.
        source: name of its shard, and identity of the file that what is known holds for.
    """

    def __init__(self, reader: "CacheReader", entry: Entry):
        self._reader, self._entry, self.id = reader, entry, entry.id
        self.codec = reader.codec
        self._index = reader.index(entry)
        self.source = entry.shard, self._index.identity
        self.num_frames = self._index.num_frames
        self.frame_names = list(self._index.frame_names)
        self.geometry = self._index.geometry

    def frame_queries(
        self, indices: Iterable[int] | None = None, out: np.ndarray | None = None
    ) -> np.ndarray:
        """Q_f (t, N_f, C) of some frames, all by default.

        Args:
            indices: t frames, in any order, repeated or not.
            out: where to, instead of a new array: contiguous, of this shape and type.
        """
        path = "frame_queries"
        extent = self._extent(path, spec.FRAME_QUERIES)
        return self._rows(path, extent, self.frames(indices), out, keep=True)

    def mask_features(
        self, indices: Iterable[int] | None = None, out: Mapping[str, np.ndarray] | None = None
    ) -> dict[str, np.ndarray]:
        """F_mask of some frames as the codec stores it: name to (t, ...).

        Args:
            indices: t frames, in any order, repeated or not.
            out: where to, instead of new arrays; see `mask_extents`.

        Raises:
            InputError: the cache is light.
        """
        if self._reader.light:
            raise InputError(
                f"the cache {self._reader.path} is light, it holds no mask features (codec "
                f"{self._reader.codec.name!r}): use a head that draws no masks, or a full cache"
            )
        frames = self.frames(indices)
        return {
            name: self._rows(
                f"mask_features/{name}", extent, frames, out[name] if out else None, keep=False
            )
            for name, extent in self.mask_extents().items()
        }

    def video_queries(self) -> np.ndarray:
        """Q_v (N_v, C) of the whole video."""
        return self._of_video("video_queries")

    def video_logits(self) -> np.ndarray:
        """Class logits (N_v, K+1) float32; the last column is "no object"."""
        return self._of_video("video_logits")

    def video_mask_embeds(self) -> np.ndarray:
        """Mask embeddings of the frozen segmenter itself.

        Returns:
            (N_v, C_mask), or (T, N_v, C_mask) where they change from frame to frame.
        """
        return self._of_video("video_mask_embeds")

    def frame_times(self) -> np.ndarray:
        """Which frame of the video each frame is, (T,) int32 from 0 and ascending."""
        if self._reader.version < 3:
            return np.arange(self.num_frames, dtype=np.int32)
        times = self._of_video("frame_times")
        if times.min() < 0 or (np.diff(times) < 1).any():
            raise InputError(f"{self._place('frame_times')}: they are not ascending from 0")
        return times

    def overlaps(self) -> np.ndarray | None:
        """IoU of each video query's mask with each object's, all frames together.

        Returns:
            (N_v, O) float16, a column for each of `annotation_ids`; None if the cache has none.
        """
        return self._of_video("overlaps") if "overlaps" in self._members() else None

    def segmenter_masks(self) -> dict[int, list[RLE | None]]:
        """The segmenter's own masks of its best video queries, by their number.

        Returns:
            One RLE or None a frame, at the original size; empty if the cache has none.
        """
        if "segmenter_masks" not in self._members():
            return {}
        names = self._members("segmenter_masks")
        queries = self._extent("video_queries", spec.VIDEO["video_queries"]).shape[0]
        if not set(names) <= set(map(str, range(queries))):
            raise InputError(f"{self._place('segmenter_masks')}: its names are no video queries")
        return {int(n): self._masks(f"segmenter_masks/{n}") for n in sorted(names, key=int)}

    def tracks(self) -> np.ndarray:
        """Tracks (N_v, T, 6) float16 of the video queries' own masks."""
        return self._of_video("tracks")

    @property
    def num_clips(self) -> int:
        """K, the number of clips in the clip bank; 0 without one."""
        if not self._members("clips"):
            return 0
        return self._extent("clips/frame_indices", spec.CLIPS["frame_indices"]).shape[0]

    def clip(self, k: int) -> Clip:
        """Clip k of the clip bank; `IndexError` when there is none."""
        if not 0 <= k < self.num_clips:
            raise IndexError(f"clip {k} of {self.num_clips} of the video {self.id!r}")
        arrays = {}
        for name, layout in spec.CLIPS.items():
            if not (name in spec.OPTIONAL and name not in self._members("clips")):
                path = f"clips/{name}"
                arrays[name] = self._rows(path, self._extent(path, layout), [k], None, keep=True)[0]
        clip = Clip(**arrays)
        frames = clip.frame_indices
        # Repeated frames would make a clip larger than the file that it is read from.
        fits = 0 < len(frames) == len(np.unique(frames))
        if not fits or frames.min() < 0 or frames.max() >= self.num_frames:
            raise InputError(
                f"{where(self.group('clips'))}: clip {k} is not of frames of the video, each once"
            )
        return clip

    @property
    def num_objects(self) -> int:
        """How many objects have ground truth."""
        return len(self._members("objects"))

    def objects(self) -> dict[str, list[RLE | None]]:
        """Ground truth: annotation id to one RLE or None a frame, at the original size."""
        return {annotation_id: self.object(annotation_id) for annotation_id in self.annotation_ids}

    def object(self, annotation_id: str) -> list[RLE | None]:
        """One object of `objects`; `InputError` when the video has none of that id."""
        return self._masks(f"objects/{escape(annotation_id)}")

    def visible(self, annotation_id: str) -> np.ndarray:
        """In which frames an object of `objects` has a pixel, (T,) bool; decoded once.

        Raises:
            ValueError: a mask cannot be decoded.
        """
        key = (annotation_id, "visible")
        return self._once(key, lambda: np.array([e is not None for e in self.ends(annotation_id)]))

    def ends(
        self, annotation_id: str, indices: Iterable[int] | None = None
    ) -> list[np.ndarray | None]:
        """Where the runs of an object of `objects` end in some frames, all by default.

        Returns:
            Of each frame what `run_ends` gives, not to be written to; None without a pixel.

        Raises:
            ValueError: a mask cannot be decoded.
        """
        ram, frames = self._reader.ram, self.frames(indices)
        found = [ram.get((self.id, annotation_id, "ends", t)) for t in frames]
        if any(ends is None for ends in found):
            masks = self.object(annotation_id)
            size = self.geometry.height, self.geometry.width
            decoded = iter(run_ends([masks[t]["counts"] for t in frames if masks[t]], size))
            found = [next(decoded) if masks[t] else np.empty(0, np.int64) for t in frames]
            found = [ends if has_pixels(ends) else ends[:0] for ends in found]
            for t, ends in zip(frames, found, strict=True):
                ram.put((self.id, annotation_id, "ends", t), ends)
        return [ends if len(ends) else None for ends in found]

    def _masks(self, path: str) -> list[RLE | None]:
        data = self._whole(path, self._once(path, lambda: self._locate(path, spec.MASKS, {})))
        try:
            return unpack(data, self.geometry, self.num_frames)
        except InputError as error:
            raise InputError(f"{self._place(path)}: {error}") from None

    def _place(self, path: str) -> str:
        return f"{self._reader.path / self._entry.shard}:/{self._inside(path)}"

    @property
    def annotation_ids(self) -> list[str]:
        """Ids of the objects that have ground truth."""
        return list(
            self._once("annotation_ids", lambda: [*map(unescape, self._members("objects"))])
        )

    @property
    def expression_ids(self) -> list[str]:
        """Ids of the video's expressions, in the data set's order."""
        return list(self._once("expression_ids", self._find_expression_ids))

    def _find_expression_ids(self) -> list[str]:
        order = {
            unescape(name): attribute(self.group(f"expressions/{name}"), "order", int)
            for name in self._members("expressions")
        }
        return sorted(order, key=order.__getitem__)

    def expression(self, expression_id: str, *, offsets: bool = True) -> Expression:
        """One expression, encoded; `InputError` when the video has none of that id.

        Args:
            offsets: read them, too; else they are empty.
        """
        path = f"expressions/{escape(expression_id)}"
        names = [name for name in spec.EXPRESSION if offsets or name != "offsets"]
        attributes, extents = self._once(
            (path, offsets), lambda: self._find_expression(path, names)
        )
        return Expression(
            expression_id=expression_id,
            **({} if offsets else {"offsets": np.empty((0, 2), np.int32)}),
            **{n: list(v) if isinstance(v, list) else v for n, v in attributes.items()},
            **{name: self._whole(f"{path}/{name}", extent) for name, extent in extents.items()},
        )

    def _find_expression(
        self, path: str, names: Sequence[str]
    ) -> tuple[dict[str, Any], dict[str, Extent]]:
        """Attributes, and where arrays lie."""
        group = self.group(path)
        attributes = {name: attribute(group, name, str) for name in ("text", "tag")}
        attributes |= {n: json_attribute(group, n, list) for n in ("object_ids", "annotation_ids")}
        dims: dict[str, int] = {}
        return attributes, {
            name: self._locate(f"{path}/{name}", spec.EXPRESSION[name], dims) for name in names
        }

    def group(self, path: str = "") -> h5py.Group:
        """A checked group of the video, its own by default; valid while the shard is open."""
        return self._shard().node(self._inside(path), h5py.Group)

    def _inside(self, path: str) -> str:
        return f"{self._index.root}/{path}" if path else self._index.root

    def _shard(self) -> OpenShard:
        return self._reader.same_shard(*self.source)

    def _once(self, key: Any, find: Callable[[], Found]) -> Found:
        """Something of the video's metadata, which never change."""
        found = self._index.found
        if key not in found:
            found[key] = find()
        return found[key]

    def _members(self, path: str = "") -> list[str]:
        return self._once((path, "members"), lambda: members(self.group(path)))

    def _extent(self, path: str, layout: spec.Spec) -> Extent:
        """Where an array lies whose lengths are those of the video's other arrays."""
        if "O" in layout.shape:
            self._index.dims["O"] = self.num_objects
        return self._once(path, lambda: self._locate(path, layout, self._index.dims))

    def _locate(self, path: str, layout: spec.Spec, dims: dict[str, int]) -> Extent:
        """Where an array lies that has the spec's type and a shape that fits ``dims``."""
        shard = self._shard()
        dataset = shard.node(self._inside(path), h5py.Dataset)
        extent = locate(dataset, shard.file.size)
        expected = layout.resolve(self._reader.codec.query_dtype)
        if extent.dtype != expected:
            raise InputError(f"{where(dataset)} has the type {extent.dtype}, not {expected}")
        try:
            layout.bind(path, extent.shape, dims)
        except ValueError as error:
            raise InputError(f"{where(dataset)}: {error}") from None
        group, _, _ = path.rpartition("/")
        if path in spec.CHECKSUMS or (path != "frame_queries" and group not in BY_ROWS):
            crcs = np.array([attribute(dataset, CRC, int)])
        else:
            crcs = self._once(("checksums", group), lambda: self._checksums(group)).get(path)
        return replace(extent, crcs=crcs)

    def _checksums(self, group: str) -> dict[str, np.ndarray]:
        """CRC-32 of each row of the arrays that are read by rows, by path."""
        if self._reader.version < 3:
            return {}
        if group == "clips":
            table = "clips/checksums"
            paths = [f"clips/{name}" for name in self._members("clips") if name != "checksums"]
        else:
            table, paths = "checksums", ["frame_queries"]
            if not self._reader.light:
                paths += [f"mask_features/{name}" for name in self._members("mask_features")]
        columns = self._whole(table, self._extent(table, spec.CHECKSUMS[table])).T
        if len(columns) != len(paths):
            raise InputError(f"{self._place(table)} is of {len(columns)} arrays, not {len(paths)}")
        return dict(zip(paths, columns, strict=True))

    def mask_extents(self) -> dict[str, Extent]:
        """Where the arrays of F_mask lie, by name; nowhere in a light cache."""
        return self._once("mask_features", self._find_mask_extents)

    def _find_mask_extents(self) -> dict[str, Extent]:
        g = self.geometry
        embeds = self._extent("video_mask_embeds", spec.VIDEO["video_mask_embeds"])
        layout = self._reader.codec.layout(
            embeds.shape[-1], g.padded_height // g.stride, g.padded_width // g.stride
        )
        return {
            name: self._extent(f"mask_features/{name}", spec.Spec(("T", *shape), dtype.name))
            for name, (shape, dtype) in layout.items()
        }

    def frames(self, indices: Iterable[int] | None) -> Sequence[int]:
        """Frame numbers, all by default; `IndexError` where there is no such frame.

        A mask or fractions are a `TypeError`.
        """
        if indices is None:
            return range(self.num_frames)
        wanted = [index(i) for i in indices]
        if wanted and not 0 <= min(wanted) <= max(wanted) < self.num_frames:
            raise IndexError(f"frames {wanted} of the video {self.id!r} with {self.num_frames}")
        return wanted

    def _rows(
        self, path: str, extent: Extent, rows: Sequence[int], out: np.ndarray | None, *, keep: bool
    ) -> np.ndarray:
        """Rows of an array, from memory where they are kept there."""
        shape = (len(rows), *extent.row_shape)
        if out is None:
            out = np.empty(shape, extent.dtype)
        for target, row in zip(as_bytes(out, shape, extent.dtype), rows, strict=True):
            self._read(path, extent, row, target, keep=keep)
        return out

    def _of_video(self, name: str) -> np.ndarray:
        return self._whole(name, self._extent(name, spec.VIDEO[name]))

    def _whole(self, path: str, extent: Extent) -> np.ndarray:
        out = np.empty(extent.shape, extent.dtype)
        self._read(path, extent, 0, out.reshape(-1).view(np.uint8), keep=True)
        return out

    def _read(self, path: str, extent: Extent, row: int, target: np.ndarray, *, keep: bool) -> None:
        """Fill (bytes,) uint8 from the shard, from a row on, or from memory."""
        ram, key = self._reader.ram, (self.id, path, row)
        kept = ram.get(key) if keep else None
        if kept is not None:
            target[:] = kept
            return
        self._shard().file.read(extent.start(row), target)
        self._reader.check(key, extent.crcs, target)
        if keep:
            ram.put(key, target)
