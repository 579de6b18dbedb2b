"""Small random but well-formed caches, for every test that needs one to read."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from pycocotools import mask as coco

from cache_schema.codecs import KNOWN, LOWRANK, Basis, Codec, get_codec
from cache_schema.records import (
    RLE,
    Clip,
    CodecIoU,
    Expression,
    Facts,
    Geometry,
    SegmenterFacts,
)
from cache_schema.writer import CacheWriter

TAGS = ("static", "reversible", "irreversible")
COLOURS, MOTIONS = ("red", "blue", "green"), ("moving", "turning", "staying")
STRIDE = 4
FACTS = Facts(one_object=False, protocol="expressions", has_text=True)


@dataclass
class SyntheticVideo:
    """What `write_cache` writes of one video, before any codec."""

    id: str
    geometry: Geometry
    frame_names: list[str]
    frame_queries: np.ndarray  # (T, N_f, C) float32
    mask_features: np.ndarray  # (T, C, h, w) float32
    video_queries: np.ndarray  # (N_v, C) float32
    video_logits: np.ndarray  # (N_v, K+1) float32
    video_mask_embeds: np.ndarray  # (N_v, C) float32
    tracks: np.ndarray  # (N_v, T, 6) float16
    clips: list[Clip]
    objects: dict[str, list[RLE | None]]
    expressions: list[Expression]
    frame_times: np.ndarray  # (T,) int32
    overlaps: np.ndarray  # (N_v, O) float16
    segmenter_masks: dict[int, list[RLE | None]]


def make_segmenter(C: int = 16) -> SegmenterFacts:
    """What the segmenter of these caches says of itself; the mask head is random."""
    rng = np.random.default_rng(C)
    layers = tuple(
        (rng.standard_normal((C, C), np.float32) / C**0.5, rng.standard_normal(C, np.float32) / 9)
        for _ in range(3)
    )
    return SegmenterFacts("synthetic", identity=False, mask_head=layers)


def make_video(
    index: int,
    *,
    num_frames: int = 6,
    N_f: int = 5,
    N_v: int = 4,
    C: int = 16,
    C_text: int = 24,
    h: int = 8,
    w: int = 12,
    num_clips: int = 2,
    clip_frames: int = 4,
    num_expressions: int = 4,
    num_classes: int = 3,
    codec: str = "float16",
    seed: int = 0,
) -> SyntheticVideo:
    """Video ``index`` of the cache that has this seed; the same whatever else is in the cache.

    Of its expressions, number 1 has no motion words, number 2 no static words, number 3 (and
    every fourth from there) no target. Tags go round static, reversible, irreversible.
    """
    rng = np.random.default_rng([seed, index])
    others = np.random.default_rng([seed, index, 3])  # of what version 3 added
    dtype = KNOWN[codec].query_dtype
    video_id = f"video{index:03d}"
    padded_height, padded_width = h * STRIDE, w * STRIDE
    resized_height, resized_width = padded_height - 2, padded_width - 3
    geometry = Geometry(
        height=resized_height * 3 // 2,
        width=resized_width * 3 // 2,
        resized_height=resized_height,
        resized_width=resized_width,
        padded_height=padded_height,
        padded_width=padded_width,
        stride=STRIDE,
    )

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, np.float32)

    def clip() -> Clip:
        length = min(clip_frames, num_frames)
        frames = np.sort(rng.choice(num_frames, length, replace=False)).astype(np.int32)
        return Clip(
            frame_indices=frames,
            video_queries=normal(N_v, C).astype(dtype),
            video_logits=normal(N_v, num_classes + 1),
            tracks=rng.random((N_v, length, 6)).astype(np.float16),
            mask_embeds=others.standard_normal((N_v, C), np.float32).astype(dtype),
            overlaps=others.random((N_v, len(ids))).astype(np.float16),
        )

    objects = _moving_boxes(rng, index, geometry, num_frames)
    ids = list(objects)

    def expression(number: int) -> Expression:
        text = f"the {COLOURS[number % 3]} box {MOTIONS[number % 3]} slowly"
        words = text.split()
        starts = np.cumsum([0] + [len(word) + 1 for word in words[:-1]])
        ends = starts + [len(word) for word in words]
        annotations = [] if number % 4 == 3 else ids[: 1 + number % len(ids)]
        return Expression(
            expression_id=str(number),
            text=text,
            object_ids=[str(ids.index(a)) for a in annotations],
            annotation_ids=annotations,
            tag=TAGS[number % 3],
            words=normal(len(words), C_text).astype(dtype),
            sentence=normal(C_text).astype(dtype),
            static=np.array([False, True, True, False, False]) & (number != 2),
            motion=np.array([False, False, False, True, True]) & (number != 1),
            offsets=np.stack([starts, ends], axis=1).astype(np.int32),
        )

    return SyntheticVideo(
        id=video_id,
        geometry=geometry,
        frame_names=[f"{t:05d}" for t in range(num_frames)],
        frame_queries=normal(num_frames, N_f, C),
        mask_features=normal(num_frames, C, h, w),
        video_queries=normal(N_v, C),
        video_logits=normal(N_v, num_classes + 1),
        video_mask_embeds=normal(N_v, C),
        tracks=rng.random((N_v, num_frames, 6)).astype(np.float16),
        clips=[clip() for _ in range(num_clips)],
        objects=objects,
        expressions=[expression(number) for number in range(num_expressions)],
        frame_times=np.arange(num_frames, dtype=np.int32),
        overlaps=others.random((N_v, len(ids))).astype(np.float16),
        segmenter_masks=dict(enumerate(list(objects.values())[: min(2, N_v)])),
    )


def make_codec(name: str, channels: int = 16, rank: int = 6) -> Codec:
    """A codec by its name; the basis of a low-rank one is random, but the same every time."""
    if name != LOWRANK:
        return get_codec(name)
    rng = np.random.default_rng(0)
    directions = np.linalg.qr(rng.standard_normal((channels, channels)))[0][:, :rank]
    directions = directions.astype(np.float32)
    mean = rng.standard_normal(channels, np.float32)
    return get_codec(name, Basis(mean, directions, np.ascontiguousarray(directions.T)))


def write_video(
    writer: CacheWriter, video: SyntheticVideo, chunk: int = 3, codec_iou: CodecIoU | None = None
) -> None:
    """Write a video, ``chunk`` frames at a time; overlaps only if they fit its objects."""
    fits = len(video.objects) == video.overlaps.shape[1]
    with writer.video(video.id, geometry=video.geometry, frame_names=video.frame_names) as out:
        for t in range(0, len(video.frame_names), chunk):
            coded = writer.codec.encode(video.mask_features[t : t + chunk])
            out.append(video.frame_queries[t : t + chunk], coded)
        out.finish(
            video_queries=video.video_queries,
            video_logits=video.video_logits,
            video_mask_embeds=video.video_mask_embeds,
            tracks=video.tracks,
            clips=video.clips if fits else [replace(c, overlaps=None) for c in video.clips],
            objects=video.objects,
            expressions=video.expressions,
            frame_times=video.frame_times,
            overlaps=video.overlaps if fits else None,
            segmenter_masks=video.segmenter_masks,
            codec_iou=codec_iou,
        )


def open_writer(
    path: Path,
    *,
    codec: str = "float16",
    channels: int = 16,
    seed: int = 0,
    shard_bytes: int = 1 << 30,
    rank: int = 0,
    world_size: int = 1,
    facts: Facts = FACTS,
) -> CacheWriter:
    """The writer that `write_cache` uses."""
    return CacheWriter(
        path,
        fingerprint={"segmenter": {"name": "synthetic", "seed": seed}, "codec": {"name": codec}},
        dataset="synthetic",
        split="train",
        codec=make_codec(codec, channels),
        facts=facts,
        segmenter=make_segmenter(channels),
        shard_bytes=shard_bytes,
        rank=rank,
        world_size=world_size,
    )


def write_cache(
    path: Path,
    *,
    num_videos: int = 3,
    num_frames: int | Sequence[int] = 6,
    codec: str = "float16",
    seed: int = 0,
    shard_bytes: int = 1 << 30,
    **sizes: int,
) -> list[SyntheticVideo]:
    """Write a cache (or what is missing of it) and return what it holds.

    Args:
        path: the cache folder.
        num_videos: ids are ``video000``, ``video001`` and so on.
        num_frames: of every video, or several numbers that the videos take in turn.
        codec: of the mask features.
        seed: of everything random.
        shard_bytes: small values make several shards.
        sizes: N_f, N_v, C, C_text, h, w, num_clips, clip_frames, num_expressions, num_classes;
            see `make_video` for the defaults.
    """
    lengths = [num_frames] if isinstance(num_frames, int) else list(num_frames)
    videos = [
        make_video(i, num_frames=lengths[i % len(lengths)], codec=codec, seed=seed, **sizes)
        for i in range(num_videos)
    ]
    channels = sizes.get("C", 16)
    with open_writer(
        path, codec=codec, channels=channels, seed=seed, shard_bytes=shard_bytes
    ) as writer:
        for video in videos:
            if video.id not in writer.done:
                write_video(writer, video)
    return videos


def _moving_boxes(
    rng: np.random.Generator, index: int, geometry: Geometry, num_frames: int
) -> dict[str, list[RLE | None]]:
    """Two boxes that cross the frame and one that is gone in the second half of the video."""
    height, width = geometry.height, geometry.width
    objects: dict[str, list[RLE | None]] = {}
    for number in range(3):
        box_h, box_w = height // 3, width // 4
        (y, x), (dy, dx) = rng.random((2, 2)) * [height - box_h, width - box_w]
        rles: list[RLE | None] = []
        for t in range(num_frames):
            along = t / max(1, num_frames - 1)
            top, left = (round(a + (b - a) * along) for a, b in ((y, dy), (x, dx)))
            mask = np.zeros((height, width), np.uint8, order="F")
            mask[top : top + box_h, left : left + box_w] = 1
            gone = number == 2 and t >= (num_frames + 1) // 2
            rles.append(None if gone else _encode(mask))
        objects[str(1000 * index + number)] = rles
    return objects


def _encode(mask: np.ndarray) -> RLE:
    rle = coco.encode(mask)
    return {"size": list(rle["size"]), "counts": rle["counts"].decode()}
