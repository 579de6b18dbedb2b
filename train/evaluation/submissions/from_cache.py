"""Submissions from a cache and stored predictions: replayed frame by frame, into the zip."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch

from cache_schema.host.cli import InputError
from cache_schema.reader import CacheReader
from train.evaluation.from_cache.contents import check_origin, list_expressions
from train.evaluation.from_cache.davis import object_maps
from train.evaluation.from_cache.task import ReplayTask
from train.evaluation.pngs.png import encode_labels, encode_mask
from train.evaluation.submissions.layout import Layout, Problem, Rejected, pick_layout
from train.evaluation.submissions.writer import new_submission
from train.predictions import Predictions
from train.records import AnnotatedVideo
from train.replay import replay


def cache_videos(reader: CacheReader) -> list[AnnotatedVideo]:
    """What a submission of a cache's predictions has to hold.

    Raises:
        InputError: the cache lacks videos.
    """
    if reader.failures:
        raise InputError(
            f"{reader.path} lacks {len(reader.failures)} videos that failed, such as "
            f"{next(iter(reader.failures))}; extract them again before anything is handed in"
        )
    videos = []
    for video_id, expressions in list_expressions(reader).items():
        video = reader.video(video_id)
        size = (video.geometry.height, video.geometry.width)
        videos.append(AnnotatedVideo(video_id, video.frame_names, expressions, {}, size))
    return videos


def from_cache(
    reader: CacheReader,
    predictions: Predictions,
    path: Path,
    *,
    sigma: float,
    device: torch.device | str = "cpu",
) -> int:
    """Replay stored predictions into a submission.

    Returns:
        The number of masks.

    Raises:
        InputError: the predictions are of another cache or incomplete, or see `cache_videos` and
            `pick_layout`.
        Rejected: the result would be.
    """
    check_origin(reader, predictions)
    videos = {video.id: video for video in cache_videos(reader)}
    layout = pick_layout(reader.facts, str(reader.path))
    by_video = {video.id: video.expressions for video in videos.values()}
    task = ReplayTask(reader, predictions, by_video, [sigma], device=device)
    with new_submission(path, layout) as writer:
        for video, expressions, (kept,) in task:
            if layout.maps:
                frames: Iterable = object_maps(video, expressions, kept, device=device)
            else:
                frames = replay(video, kept, device=device)
            writer.add(videos[video.id], _encoded(layout, videos[video.id], frames))
    return writer.num_files


def _encoded(
    layout: Layout, video: AnnotatedVideo, frames: Iterable[Iterable[np.ndarray]]
) -> Iterator[tuple[str, bytes]]:
    """Names and checked PNGs of a video's masks: for each frame those of all expressions."""
    rows = layout.file_names(video)
    encode = encode_labels if layout.maps else encode_mask
    for t, masks in enumerate(frames):
        for row, mask in zip(rows, masks, strict=True):
            data = encode(mask)
            problem, _ = layout.check_png(data, video.size)
            if problem is not None:
                raise Rejected([Problem(problem.kind, f"{row[t]}: {problem.where}")])
            yield row[t], data
