"""What is coded into the cache, with the tracks of what was written; all of HDF5."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from cache_schema.records import Clip
from cache_schema.video_writer import VideoWriter
from cache_schema.writer import CacheWriter
from extract.codecs.video_tracks import video_tracks
from extract.pipeline.parts import CodedClips, CodedFrames, Failed, Head, Written, by_video


def write(
    open_cache: Callable[[], CacheWriter], parts: Iterable[tuple[str, Any]]
) -> Iterator[set[str] | tuple[str, Written | Failed]]:
    """Enter each video into the cache, or why it cannot be.

    Args:
        open_cache: opens it.
        parts: see `extract.pipeline.coding.code`.

    Yields:
        First the ids of the videos that are in the cache already, then what became of each video.

    Raises:
        InputError: the cache cannot be written.
    """
    with open_cache() as cache:
        yield set(cache.done)
        for video_id, outcome in by_video(parts, lambda i, own: _write_video(cache, i, own)):
            if isinstance(outcome, Failed):
                cache.fail(video_id, outcome.reason)  # raises when the cache itself is the trouble
            yield video_id, outcome


def _write_video(cache: CacheWriter, video_id: str, parts: Iterator[Any]) -> Iterator[Written]:
    head: Head = next(parts)
    with cache.video(video_id, geometry=head.geometry, frame_names=head.frame_names) as entry:
        for part in parts:
            if isinstance(part, CodedFrames):
                entry.append(part.frame_queries, part.mask_features)
            else:
                _finish(entry, cache, head, part)
                break
    yield Written(entry.frames)


def _finish(entry: VideoWriter, cache: CacheWriter, head: Head, clips: CodedClips) -> None:
    whole, banked = clips.tracks or video_tracks(
        entry.mask_features, cache.codec, clips.mask_embeds, clips.bank, entry.frames, head.geometry
    )
    entry.finish(
        video_queries=clips.video_queries[0],
        video_logits=clips.logits[0],
        video_mask_embeds=clips.mask_embeds[0],
        tracks=whole,
        clips=[
            Clip(
                frame_indices=indices,
                video_queries=queries,
                video_logits=logits,
                tracks=paths,
                mask_embeds=embeds,
            )
            for indices, queries, logits, paths, embeds in zip(
                clips.bank,
                clips.video_queries[1:],
                clips.logits[1:],
                banked,
                clips.mask_embeds[1:],
                strict=True,
            )
        ],
        objects=head.objects,
        expressions=head.expressions,
        frame_times=np.arange(entry.frames),
        overlaps=None,
        codec_iou=clips.codec_iou,
    )
