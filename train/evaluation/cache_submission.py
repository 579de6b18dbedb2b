"""Submissions from a cache and stored predictions: replayed frame by frame, into the zip."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch

from cache_schema.host.cli import InputError
from cache_schema.reader import CacheReader
from train.evaluation.cache_scores import Task, check_origin, list_expressions
from train.evaluation.davis_scoring import object_maps
from train.evaluation.png_codec import encode_labels, encode_mask
from train.evaluation.records import AnnotatedVideo
from train.evaluation.submission import Rejected, SubmissionWriter
from train.evaluation.submission_check import DAVIS, LAYOUTS, Problem, check_png, file_names
from train.predictions import Predictions
from train.replay import replay


def cache_videos(reader: CacheReader) -> list[AnnotatedVideo]:
    """What a submission of a cache's predictions has to hold.

    Raises:
        InputError: there is no benchmark of this data set, or the cache lacks videos.
    """
    if reader.dataset not in LAYOUTS:
        raise InputError(
            f"{reader.path} holds {reader.dataset}, which is handed in nowhere; known are "
            f"{', '.join(LAYOUTS)}"
        )
    if reader.failures:
        raise InputError(
            f"{reader.path} lacks {len(reader.failures)} videos that failed, such as "
            f"{next(iter(reader.failures))}; extract them again before anything is handed in"
        )
    videos = []
    for video_id, items in list_expressions(reader).items():
        video = reader.video(video_id)
        size = (video.geometry.height, video.geometry.width)
        videos.append(AnnotatedVideo(video_id, video.frame_names, list(items), {}, size))
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
        InputError: the predictions are of another cache or incomplete, or see `cache_videos`.
        Rejected: the result would be.
    """
    check_origin(reader, predictions)
    videos = {video.id: video for video in cache_videos(reader)}
    task = Task(
        reader, predictions, {v.id: v.items for v in videos.values()}, [sigma], device=device
    )
    how = {"codec": reader.codec, "device": device}
    with SubmissionWriter(path, reader.dataset) as writer:
        for video, _, (kept,) in task:
            record = videos[video.id]
            if reader.dataset == DAVIS:
                frames: Iterable = object_maps(video, record.items, kept, **how)
            else:
                frames = replay(video, kept, **how)
            writer.add(record, _encoded(reader.dataset, record, frames))
    return writer.num_files


def _encoded(
    dataset: str, video: AnnotatedVideo, frames: Iterable[Iterable[np.ndarray]]
) -> Iterator[tuple[str, bytes]]:
    """Names and checked PNGs of a video's masks: for each frame those of all expressions."""
    rows = file_names(dataset, video)
    encode = encode_labels if dataset == DAVIS else encode_mask
    for t, masks in enumerate(frames):
        for row, mask in zip(rows, masks, strict=True):
            data = encode(mask)
            problem, _ = check_png(data, dataset, video.size)
            if problem is not None:
                raise Rejected([Problem(problem.kind, f"{row[t]}: {problem.where}")])
            yield row[t], data
