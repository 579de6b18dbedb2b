"""Makes a part of a cache, or a light one, out of a cache of any version.

A copy is written as any cache is: it can be killed and run again, and several parts may go into one
folder. What is read is compared with its checksums, so damage is not copied.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from cache_schema import manifest
from cache_schema.address import Where, local_folder
from cache_schema.codecs import LIGHT
from cache_schema.host.cli import InputError
from cache_schema.own_masks import own_masks
from cache_schema.reader import CacheReader
from cache_schema.video import Video
from cache_schema.video_writer import VideoWriter
from cache_schema.writer import CacheWriter

SHARD_BYTES = 1 << 26
CHUNK_BYTES = 1 << 26  # of frames that are in memory together


@dataclass
class Copied:
    """What `copy` did: videos and frames that it wrote, videos that were there already."""

    videos: int = 0
    frames: int = 0
    there: int = 0


def copy(
    source: Where,
    target: str | os.PathLike[str],
    *,
    videos: Iterable[str] | None = None,
    light: bool = False,
    part: tuple[int, int] = (1, 1),
    shard_bytes: int = SHARD_BYTES,
) -> Copied:
    """Write what is missing of a copy.

    Args:
        source: a cache of any version, a folder or an address.
        target: a folder; one that holds some of the same cache is completed.
        videos: ids, all by default.
        light: leave out the mask features, for which the segmenter's own masks are drawn where the
            source has none; nothing else can be made of a light cache.
        part: the n-th of m parts, from 1, with about the same number of frames each.
        shard_bytes: a shard is closed when it is larger than this.

    Raises:
        InputError: no such video or part, damage in the source, a target that is something else.
    """
    reader, target = CacheReader(source), local_folder(target)
    source = reader.path
    if isinstance(source, Path) and target.exists() and target.samefile(source):
        raise InputError(f"{target} is the cache that is to be copied: give another folder")
    light = light or reader.light
    ids = reader.video_ids if videos is None else sorted(set(videos))
    for video_id in ids:
        reader.video(video_id)  # raises if there is none
    ids = _part(reader, ids, *part)
    codec = replace(LIGHT, query_dtype=reader.codec.query_dtype) if light else reader.codec
    fingerprint = reader.fingerprint | ({"codec": codec.describe()} if light else {})
    copied = Copied()
    with CacheWriter(
        target,
        fingerprint=fingerprint,
        dataset=reader.dataset,
        split=reader.split,
        codec=codec,
        facts=reader.facts,
        segmenter=reader.segmenter,
        shard_bytes=shard_bytes,
    ) as writer:
        for video_id in ids:
            if video_id in writer.done:
                copied.there += 1
                continue
            video = reader.video(video_id)
            names, geometry = video.frame_names, video.geometry
            with writer.video(video_id, geometry=geometry, frame_names=names) as out:
                _copy(reader, video, out, light)
            copied.videos += 1
            copied.frames += video.num_frames
    known = manifest.read(source)
    if known.complete and known.videos.keys() <= writer.done:
        manifest.append(target, [{"complete": len(writer.done)}])
    return copied


def _part(reader: CacheReader, ids: list[str], number: int, count: int) -> list[str]:
    """The videos of a part: each video, the longest first, goes where the fewest frames are."""
    if not 1 <= number <= count:
        raise InputError(f"there is no part {number} of {count}: give one from 1 on, of 1 or more")
    frames, parts = [0] * count, [[] for _ in range(count)]
    for video_id in sorted(ids, key=lambda i: (-reader.entries[i].frames, i)):
        fewest = frames.index(min(frames))
        frames[fewest] += reader.entries[video_id].frames
        parts[fewest].append(video_id)
    if not parts[number - 1]:
        raise InputError(f"part {number} of {count} is empty: there are only {len(ids)} videos")
    return sorted(parts[number - 1])


def _copy(reader: CacheReader, video: Video, out: VideoWriter, light: bool) -> None:
    """All of a video, a few frames at a time."""
    frame_bytes = sum(extent.row_bytes for extent in video.mask_extents().values())
    step = max(1, CHUNK_BYTES // max(1, frame_bytes))
    for start in range(0, video.num_frames, step):
        frames = range(start, min(start + step, video.num_frames))
        out.append(video.frame_queries(frames), {} if light else video.mask_features(frames))
    masks = video.segmenter_masks()
    if light and not masks and not reader.light:
        masks = own_masks(video, reader.codec)
    out.finish(
        video_queries=video.video_queries(),
        video_logits=video.video_logits(),
        video_mask_embeds=video.video_mask_embeds(),
        tracks=video.tracks(),
        clips=[video.clip(k) for k in range(video.num_clips)],
        objects=video.objects(),
        expressions=[video.expression(expression_id) for expression_id in video.expression_ids],
        frame_times=video.frame_times(),
        overlaps=video.overlaps(),
        segmenter_masks=masks,
        codec_iou=None if light else reader.entries[video.id].codec_iou,
    )


def read_ids(path: Path) -> list[str]:
    """The ids in a file, one a line.

    Raises:
        InputError: it cannot be read, or names no video.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path} cannot be read ({error}): give a file with an id a line"
        ) from None
    ids = [line.strip() for line in lines if line.strip()]
    if not ids:
        raise InputError(f"{path} names no video: give a file with an id a line")
    return ids
