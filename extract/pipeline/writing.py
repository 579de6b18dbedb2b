"""What is coded into the cache, with what its masks show; all of HDF5.

A cache without mask features gets the masks that they make: until a video has ended, its features
are in a file.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from cache_schema.host.cores import SPARE_THREADS
from cache_schema.records import RLE, Clip, Geometry
from cache_schema.video_writer import VideoWriter
from cache_schema.writer import CacheWriter
from extract.codecs.mask_codec import carrier
from extract.codecs.video_tracks import video_tracks
from extract.datasets.records import encode_mask
from extract.pipeline.parts import CodedClips, CodedFrames, Failed, Head, Written, by_video
from extract.pipeline.spilled import Spilled
from extract.segmenters.base import best_queries
from extract.segmenters.masks import mask_logits, to_original

#: Masks that are brought to the original size together.
TOGETHER = 16


def segmenter_masks(
    features: Spilled,
    embeds: np.ndarray,
    logits: np.ndarray,
    geometry: Geometry,
    keep: int | None,
) -> dict[int, list[RLE | None]]:
    """The segmenter's own masks as replay makes them, at the original size.

    Args:
        features: exact mask features, (C_mask, h, w) of each frame.
        embeds: (N_v, C_mask), or (T, N_v, C_mask).
        logits: (N_v, K+1), which tell the best queries.
        keep: how many queries; None keeps all.

    Returns:
        Video query -> a mask a frame, None where it is empty.
    """
    best = best_queries(torch.from_numpy(logits), keep)

    def masks(t: int) -> list[RLE | None]:
        frame = torch.from_numpy(features[t])[None]
        own = torch.from_numpy(embeds if embeds.ndim == 2 else embeds[t])
        maps = mask_logits(frame, own)[0][best]  # (keep, h, w), with the bits of all together
        inside = [mask for some in maps.split(TOGETHER) for mask in to_original(some, geometry) > 0]
        return [encode_mask(mask.numpy()) if mask.any() else None for mask in inside]

    with ThreadPoolExecutor(SPARE_THREADS) as pool:
        frames = list(pool.map(masks, range(features.frames)))
    return dict(zip(best.tolist(), map(list, zip(*frames, strict=True)), strict=True))


def write(
    open_cache: Callable[[], CacheWriter], parts: Iterable[tuple[str, Any]], keep: int | None = None
) -> Iterator[set[str] | tuple[str, Written | Failed]]:
    """Enter each video into the cache, or why it cannot be.

    Args:
        parts: see `extract.pipeline.coding.code`.
        keep: masks of so many video queries go into a cache without mask features; None keeps all.

    Yields:
        First the ids of the videos that are in the cache already, then what became of each video.

    Raises:
        InputError: the cache cannot be written.
    """
    with open_cache() as cache:
        yield set(cache.done)
        for video_id, outcome in by_video(parts, lambda i, own: _write_video(cache, i, own, keep)):
            if isinstance(outcome, Failed):
                cache.fail(video_id, outcome.reason)  # raises when the cache itself is the trouble
            yield video_id, outcome


def _write_video(
    cache: CacheWriter, video_id: str, parts: Iterator[Any], keep: int | None
) -> Iterator[Written]:
    head: Head = next(parts)
    spilled = Spilled(cache.path) if cache.codec.dtype is None else None
    with cache.video(video_id, geometry=head.geometry, frame_names=head.frame_names) as entry:
        for part in parts:
            if isinstance(part, CodedClips):
                if part.frame_queries is not None:
                    entry.append(part.frame_queries, {})
                _finish(entry, cache, head, part, spilled, keep)
                break
            part: CodedFrames
            entry.append(part.frame_queries, {} if spilled else part.mask_features)
            if spilled:
                spilled.append(part.mask_features["values"])
    yield Written(entry.frames)


def _finish(
    entry: VideoWriter,
    cache: CacheWriter,
    head: Head,
    clips: CodedClips,
    spilled: Spilled | None,
    keep: int | None,
) -> None:
    features = (lambda t: {"values": spilled[t][None]}) if spilled else entry.mask_features
    bank, frames, geometry = clips.bank, entry.frames, head.geometry
    embeds, codec = clips.mask_embeds, carrier(cache.codec)
    (tracks, overlaps), *banked = clips.measured or video_tracks(
        features, codec, embeds, bank, frames, geometry, head.cells
    )
    masks = spilled and segmenter_masks(spilled, embeds[0], clips.logits[0], geometry, keep)
    entry.finish(
        video_queries=clips.video_queries[0],
        video_logits=clips.logits[0],
        video_mask_embeds=embeds[0],
        tracks=tracks,
        clips=[
            Clip(
                frame_indices=indices,
                video_queries=queries,
                video_logits=logits,
                tracks=paths,
                mask_embeds=own,
                overlaps=shared,
            )
            for indices, queries, logits, own, (paths, shared) in zip(
                bank, clips.video_queries[1:], clips.logits[1:], embeds[1:], banked, strict=True
            )
        ],
        objects=head.objects,
        expressions=head.expressions,
        frame_times=head.frame_times,
        overlaps=overlaps,
        segmenter_masks=masks,
        codec_iou=clips.codec_iou,
    )
