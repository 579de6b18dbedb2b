"""Writes one video into an open shard: frames as they come, the rest at the end."""

import json
import zlib
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from contextlib import AbstractContextManager
from dataclasses import asdict

import h5py
import numpy as np

from cache_schema import spec
from cache_schema.checksums import CRC, joined
from cache_schema.codecs import Codec, narrow
from cache_schema.host.cli import InputError
from cache_schema.names import check_text, escape, unescape
from cache_schema.records import RLE, Clip, CodecIoU, Expression, Geometry, pack


class VideoWriter:
    """A video in the making; `CacheWriter.video` makes one.

    Args:
        group: the video's empty group.
        frame_names: one a frame; their number is the number of frames to come.
        guard: a context that turns storage errors into `InputError`.
        beside: a thread for checksums.

    Raises:
        InputError: there are no frames.
        ValueError: the padded size is no multiple of the stride.
    """

    def __init__(
        self,
        group: h5py.Group,
        *,
        video_id: str,
        geometry: Geometry,
        frame_names: list[str],
        codec: Codec,
        guard: Callable[[], AbstractContextManager[None]],
        beside: Executor,
    ):
        if not frame_names:
            raise InputError(f"video {video_id!r} has no frames")
        h, rest_h = divmod(geometry.padded_height, geometry.stride)
        w, rest_w = divmod(geometry.padded_width, geometry.stride)
        if rest_h or rest_w:
            raise ValueError(f"{geometry}: the padded size is no multiple of the stride")
        self._group, self._id, self._geometry = group, video_id, geometry
        self._codec, self._guard, self._beside = codec, guard, beside
        self._dims = {"T": len(frame_names), "h": h, "w": w}
        self._streams: dict[str, h5py.Dataset] = {}
        self._rows: dict[str, list[int]] = {}  # CRC-32 of each row of arrays that are read by rows
        self.finished = False
        with guard():
            group.attrs["id"] = video_id
            group.attrs["num_frames"] = len(frame_names)
            group.attrs["frame_names"] = json.dumps(list(frame_names))
            for name, value in asdict(geometry).items():
                group.attrs[name] = int(value)

    @property
    def frames(self) -> int:
        """How many have been appended."""
        return max(map(len, self._rows.values()), default=0)

    def append(self, frame_queries: np.ndarray | None, coded: Mapping[str, np.ndarray]) -> None:
        """Write the next t frames straight to the shard.

        Args:
            frame_queries: (t, N_f, C) float; None if they are appended by themselves, which need
                not be at the same time.
            coded: what the codec makes of the mask features, each (t, ...); empty as well.

        Raises:
            InputError: values that cannot be stored, more frames than names, storage errors.
            ValueError: shapes or types that do not fit the codec, the geometry or earlier frames.
        """
        total, arrays, queries = self._dims["T"], {}, frame_queries
        if queries is not None:
            spec.FRAME_QUERIES.bind("frame_queries", (total, *queries.shape[1:]), self._dims)
            arrays["frame_queries"] = self._narrow("frame_queries", queries, spec.FRAME_QUERIES)
        if coded:
            t = len(coded["values"] if queries is None else queries)
            arrays |= self._coded(t, coded)
        if any(
            len(self._rows.get(name, ())) + len(array) > total for name, array in arrays.items()
        ):
            raise InputError(f"video {self._id!r} has more frames than its {total} frame names")
        with self._guard():
            for name, array in arrays.items():
                rows = self._rows.setdefault(name, [])
                if name not in self._streams:
                    self._streams[name] = self._group.create_dataset(
                        name, (total, *array.shape[1:]), array.dtype, chunks=(1, *array.shape[1:])
                    )
                crcs = self._beside.submit(lambda own: [*map(zlib.crc32, own)], array)
                for t, row in enumerate(array, len(rows)):
                    place = (t, *(0 for _ in row.shape))
                    self._streams[name].id.write_direct_chunk(place, row)  # a chunk is a row
                rows.extend(crcs.result())

    def _coded(self, t: int, coded: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The codec's arrays by their names in the shard, checked."""
        basis = self._codec.basis
        if self._codec.dtype is None:
            raise ValueError(f"codec {self._codec.name!r} stores no mask features")
        self._dims.setdefault("C_mask", len(basis.mean) if basis else coded["values"].shape[1])
        layout = self._codec.layout(*(self._dims[k] for k in ("C_mask", "h", "w")))
        arrays = {}
        for name, (shape, dtype) in layout.items():
            array = coded[name]
            if array.shape != (t, *shape) or array.dtype != dtype:
                raise ValueError(
                    f"mask_features/{name}: {array.dtype} {array.shape}, not {dtype} {(t, *shape)}"
                )
            try:
                arrays[f"mask_features/{name}"] = narrow(array, dtype)
            except InputError as error:
                raise self._refused("mask_features", error) from None
        return arrays

    def mask_features(self, t: int) -> dict[str, np.ndarray]:
        """The coded arrays of a frame that has been appended, each with a leading axis of 1."""
        if not 0 <= t < self.frames:
            raise IndexError(f"frame {t} of {self.frames} written ones")
        prefix = "mask_features/"
        with self._guard():
            return {
                name.removeprefix(prefix): stream[t : t + 1]
                for name, stream in self._streams.items()
                if name.startswith(prefix)
            }

    def finish(
        self,
        *,
        video_queries: np.ndarray,
        video_logits: np.ndarray,
        video_mask_embeds: np.ndarray,
        tracks: np.ndarray,
        clips: list[Clip],
        objects: Mapping[str, list[RLE | None]],
        expressions: list[Expression],
        frame_times: np.ndarray,
        overlaps: np.ndarray | None,
        segmenter_masks: Mapping[int, list[RLE | None]] | None = None,
        codec_iou: CodecIoU | None = None,
    ) -> None:
        """Write everything that is not per frame.

        Args:
            video_queries: (N_v, C).
            video_logits: (N_v, K+1).
            video_mask_embeds: (N_v, C_mask), or (T, N_v, C_mask) where they change with the frame.
            tracks: (N_v, T, 6).
            clips: the clip bank, all of one length; may be empty.
            objects: annotation id to one RLE or None a frame, at the original size.
            expressions: in their order; ids unique.
            frame_times: (T,), which frame of the video each is, from 0 and ascending.
            overlaps: (N_v, O), IoU of each video query's mask with each object's, in the order of
                ``objects``; None without objects, or where nobody measured it.
            segmenter_masks: of video queries, one RLE or None a frame, at the original size.
            codec_iou: what the codec costs this video, where it was measured.

        Raises:
            InputError: frames are missing, or something in the data cannot be stored.
            ValueError: shapes that do not fit together.
        """
        features = () if self._codec.dtype is None else self._codec.layout(1, 1, 1)
        for name in ("frame_queries", *(f"mask_features/{name}" for name in features)):
            if (rows := len(self._rows.get(name, ()))) != self._dims["T"]:
                raise InputError(
                    f"video {self._id!r} has {rows} frames, its frame names {self._dims['T']}"
                )
        if np.ndim(frame_times) != 1 or np.min(frame_times) < 0 or (np.diff(frame_times) < 1).any():
            raise ValueError(f"frame times {frame_times} are not ascending from 0")
        names = [self._escape(object_id, "object") for object_id in objects]
        # HDF5 lists the objects by their names, and so do readers.
        self._columns = sorted(range(len(names)), key=names.__getitem__)
        self._dims["O"] = len(names)
        arrays = {
            "frame_times": frame_times,
            "video_queries": video_queries,
            "video_logits": video_logits,
            "video_mask_embeds": video_mask_embeds,
            "tracks": tracks,
            "overlaps": overlaps,
        }
        for name, layout in spec.VIDEO.items():
            if not (name in spec.OPTIONAL and arrays[name] is None):
                self._write(name, arrays[name], layout, self._dims)
        self._write_clips(clips)
        self._write_masks("objects", dict(zip(names, objects.values(), strict=True)))
        masks = segmenter_masks or {}
        if not masks.keys() <= set(range(self._dims["N_v"])):
            raise ValueError(f"masks of the queries {sorted(masks)} of {self._dims['N_v']}")
        self._write_masks("segmenter_masks", {str(n): masks[n] for n in masks})
        self._write_expressions(expressions)
        self._write_checksums("checksums", self._rows)
        with self._guard():
            cost = json.dumps(asdict(codec_iou), allow_nan=False) if codec_iou else ""
            self._group.attrs["codec_iou"] = cost
            for name, stream in self._streams.items():
                stream.attrs[CRC] = joined(self._rows[name], stream.nbytes // stream.shape[0])
        self.finished = True

    def _write_clips(self, clips: list[Clip]) -> None:
        with self._guard():
            self._group.create_group("clips")
        for clip in clips:
            inside = np.asarray(clip.frame_indices)
            if inside.size and not 0 <= inside.min() <= inside.max() < self.frames:
                raise ValueError(f"clip frames {inside} of a video with {self.frames} frames")
        rows = {}
        for name, layout in spec.CLIPS.items() if clips else ():
            arrays = [getattr(clip, name) for clip in clips]
            if not (name in spec.OPTIONAL and all(array is None for array in arrays)):
                data = self._write(f"clips/{name}", np.stack(arrays), layout, self._dims)
                rows[name] = list(map(zlib.crc32, data))
        if rows:
            self._write_checksums("clips/checksums", rows)

    def _write_checksums(self, name: str, rows: Mapping[str, list[int]]) -> None:
        """The CRC-32 of each row, a column for each array, in the order of their names."""
        table = np.array([rows[key] for key in sorted(rows)], np.uint32).T
        self._write(name, table, spec.CHECKSUMS[name], self._dims)

    def _write_masks(self, kind: str, masks: Mapping[str, list[RLE | None]]) -> None:
        """Masks by the escaped name of what they are of."""
        with self._guard():
            self._group.create_group(kind)
        for name, rles in masks.items():
            try:
                data = pack(rles, self._geometry, self.frames)
            except InputError as error:
                what = f"video {self._id!r}, {kind} {unescape(name)!r}"
                raise InputError(f"{what}: {error}") from None
            self._write(f"{kind}/{name}", data, spec.MASKS, {})

    def _write_expressions(self, expressions: list[Expression]) -> None:
        with self._guard():
            self._group.create_group("expressions")
        for order, expression in enumerate(expressions):
            name = f"expressions/{self._escape(expression.expression_id, 'expression')}"
            if name in self._group:
                raise InputError(
                    f"video {self._id!r} has two expressions with the id "
                    f"{expression.expression_id!r}"
                )
            what = f"video {self._id!r}, expression {expression.expression_id!r}:"
            attributes = {
                "text": check_text(expression.text, f"{what} its text"),
                "tag": check_text(expression.tag, f"{what} its tag"),
                "object_ids": json.dumps(list(expression.object_ids)),
                "annotation_ids": json.dumps(list(expression.annotation_ids)),
                "order": order,
            }
            with self._guard():
                group = self._group.create_group(name)
                for key, value in attributes.items():
                    group.attrs[key] = value
            # C_text is the same throughout the video, the number of words is not.
            dims = {k: v for k, v in self._dims.items() if k == "C_text"}
            for key, layout in spec.EXPRESSION.items():
                self._write(f"{name}/{key}", getattr(expression, key), layout, dims)
            self._dims["C_text"] = dims["C_text"]

    def _write(
        self, name: str, array: np.ndarray, layout: spec.Spec, dims: dict[str, int]
    ) -> np.ndarray:
        """Write an array, and return it as it is stored."""
        layout.bind(name, np.shape(array), dims)
        if layout.shape[-1] == "O":
            array = np.asarray(array)[..., self._columns]
        data = self._narrow(name, array, layout)
        with self._guard():
            dataset = self._group.create_dataset(name, data=data)
            dataset.attrs[CRC] = zlib.crc32(data)
        return data

    def _narrow(self, name: str, array: np.ndarray, layout: spec.Spec) -> np.ndarray:
        try:
            return narrow(array, layout.resolve(self._codec.query_dtype))
        except InputError as error:
            raise self._refused(name, error) from None

    def _refused(self, name: str, error: InputError) -> InputError:
        return InputError(f"video {self._id!r}, {name} cannot be stored: {error}")

    def _escape(self, identifier: str, what: str) -> str:
        return escape(identifier, f"video {self._id!r}: {what} id")
