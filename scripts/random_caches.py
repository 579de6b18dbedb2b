"""Caches of random numbers at the paper's sizes, for the benchmarks that read a cache."""

import argparse
from pathlib import Path

import cv2
import numpy as np

from cache_schema.codecs import LOWRANK, Basis, Codec, get_codec
from cache_schema.records import RLE, Clip, Expression, Facts, Geometry, SegmenterFacts
from cache_schema.writer import CacheWriter
from extract.datasets.records import encode_mask

N_F, N_V, C_TEXT, WORDS, CLASSES = 100, 100, 768, 12, 25
H, W = 480, 854  # what MeViS's frames are scaled to, most of them
EXACT = "float16"


def write_caches(folder: Path, sizes: argparse.Namespace, *, exact: bool = True) -> dict[str, Path]:
    """One in float16, and one in low rank for each of ``sizes.ranks``, with any basis.

    Args:
        sizes: videos, frames, clip, channels, height, width (of the mask features), ranks.
        exact: whether the one in float16 is wanted.

    Returns:
        Their paths by "float16", "rank 64" and so on.
    """
    rng, codecs = np.random.default_rng(0), {EXACT: get_codec(EXACT)} if exact else {}
    directions = np.linalg.qr(rng.standard_normal((sizes.channels, sizes.channels)))[0]
    for rank in sizes.ranks:
        columns = np.ascontiguousarray(directions[:, :rank], np.float32)
        mean = np.zeros(sizes.channels, np.float32)
        basis = Basis(mean, columns, np.ascontiguousarray(columns.T))
        codecs[f"rank {rank}"] = get_codec(LOWRANK, basis)
    paths = {name: folder / name.replace(" ", "-") for name in codecs}
    for name, codec in codecs.items():
        _write(paths[name], codec, sizes)
    return paths


def _write(path: Path, codec: Codec, sizes: argparse.Namespace) -> None:
    """Mask features as smooth as a network's; shards hold about two videos, as MeViS's do."""
    rng = np.random.default_rng(0)
    coarse = rng.standard_normal((sizes.channels, 12, 20)).astype(np.float32)
    features = np.stack([cv2.resize(plane, (sizes.width, sizes.height)) for plane in coarse])
    frame = codec.encode(features[None])
    with CacheWriter(
        path,
        fingerprint={"codec": codec.describe()},
        dataset="random",
        split="train",
        codec=codec,
        facts=Facts(one_object=False, protocol="expressions", has_text=True),
        segmenter=SegmenterFacts("random", identity=False, mask_head=_mask_head(sizes.channels)),
        shard_bytes=sizes.frames * sum(array.nbytes for array in frame.values()) * 3 // 2,
    ) as writer:
        for video in range(sizes.videos):
            _write_video(writer, f"video{video}", frame, rng, sizes)


def _mask_head(channels: int) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    """Three random linear layers."""
    rng = np.random.default_rng(channels)
    return tuple(
        (
            rng.standard_normal((channels, channels), np.float32) / channels**0.5,
            np.zeros(channels, np.float32),
        )
        for _ in range(3)
    )


def _write_video(
    writer: CacheWriter,
    video_id: str,
    frame: dict[str, np.ndarray],
    rng: np.random.Generator,
    sizes: argparse.Namespace,
) -> None:
    """Every frame is the given one rolled on; there are three objects and six expressions."""
    padded = (4 * sizes.height, 4 * sizes.width)
    geometry = Geometry(H, W, padded[0] * 15 // 16, padded[1], *padded, 4)
    names = [f"{t:05d}" for t in range(sizes.frames)]

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, np.float32).astype(np.float16)

    def logits() -> np.ndarray:
        return rng.standard_normal((N_V, CLASSES + 1), np.float32)

    def overlaps() -> np.ndarray:
        return rng.random((N_V, len(objects)), np.float32).astype(np.float16)

    def clip() -> Clip:
        indices = np.sort(rng.choice(sizes.frames, sizes.clip, replace=False)).astype(np.int32)
        queries, embeds = normal(N_V, sizes.channels), normal(N_V, sizes.channels)
        return Clip(indices, queries, logits(), normal(N_V, sizes.clip, 6), embeds, overlaps())

    objects = {str(i): [_blob(rng) for _ in names] for i in range(3)}
    flags = np.arange(WORDS) % 2 == 0
    expressions = [
        Expression(
            expression_id=str(i),
            text="word " * WORDS,
            object_ids=[],
            annotation_ids=list(objects)[: 1 + i % 2],
            tag="",
            words=normal(WORDS, C_TEXT),
            sentence=normal(C_TEXT),
            static=flags,
            motion=~flags,
            offsets=np.zeros((WORDS, 2), np.int32),
        )
        for i in range(6)
    ]
    with writer.video(video_id, geometry=geometry, frame_names=names) as out:
        for t in range(sizes.frames):
            coded = {name: np.roll(array, t, axis=-1) for name, array in frame.items()}
            out.append(normal(1, N_F, sizes.channels), coded)
        out.finish(
            video_queries=normal(N_V, sizes.channels),
            video_logits=logits(),
            video_mask_embeds=normal(N_V, sizes.channels),
            tracks=normal(N_V, sizes.frames, 6),
            clips=[clip() for _ in range(8)],
            objects=objects,
            expressions=expressions,
            frame_times=np.arange(sizes.frames),
            overlaps=overlaps(),
        )


def _blob(rng: np.random.Generator) -> RLE:
    """A mask with a wavy edge, about a twelfth of the image."""
    y, x = np.ogrid[:H, :W]
    cy, cx = rng.uniform(0.3, 0.7, 2) * (H, W)
    angle, radius = np.arctan2(y - cy, x - cx), np.hypot(y - cy, x - cx)
    edge = H * (0.21 + 0.03 * np.sin(5 * angle) + 0.01 * np.sin(17 * angle + cx))
    return encode_mask(radius < edge)
