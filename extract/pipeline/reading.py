"""What is ready before the model asks for it: prepared frames and encoded sentences."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from cache_schema.host.cli import InputError
from cache_schema.host.cores import SPARE_THREADS
from cache_schema.records import Expression
from extract.datasets import Dataset, SourceVideo
from extract.datasets.frames import ImageFiles
from extract.pipeline.parts import End, Head, Images, by_video
from extract.segmenters.masks import object_cells
from extract.stage import Stage
from extract.text import TextPipeline, normalise


def read(stage: Stage, dataset: Dataset, video_ids: Iterable[str]) -> Iterator[tuple[str, Any]]:
    """The `Head` of each video, its frames as `Images`, and `End`."""

    def parts(video_id: str, _: Iterator[None]) -> Iterator[Head | Images | End]:
        video = dataset.video(video_id)
        head = head_of(stage, video)
        for number, images in enumerate(chunks(stage, video, range(video.num_frames))):
            if number == 0:
                yield head
            yield images
        yield End()

    return by_video(((video_id, None) for video_id in video_ids), parts)


def head_of(stage: Stage, video: SourceVideo) -> Head:
    """What a video starts with.

    Raises:
        InputError: an expression that cannot be encoded, or a broken first frame.
    """
    expressions = encode_expressions(stage.text, video)
    geometry = stage.preprocess.geometry(*video.size())
    return Head(
        geometry=geometry,
        frame_names=video.frame_names,
        frame_times=np.array(video.frame_times, np.int32),
        expressions=expressions,
        objects=video.objects,
        cells=object_cells(video.objects, geometry),
    )


def chunks(stage: Stage, video: SourceVideo, indices: Sequence[int]) -> Iterator[Images]:
    """Resized frames of a video, as many at a time as the stage says.

    Raises:
        InputError: a broken frame.
    """
    step = stage.frames_together(stage.preprocess.geometry(*video.size()))
    with ThreadPoolExecutor(SPARE_THREADS) as pool:
        # Only image files can be read in any order.
        spread = pool.map if isinstance(video.frames, ImageFiles) else map
        for start in range(0, len(indices), step):
            yield images_of(stage, video, indices[start : start + step], spread)


def images_of(
    stage: Stage, video: SourceVideo, indices: Sequence[int], spread: Callable = map
) -> Images:
    """Some frames of a video; ``spread`` is a `map`.

    Raises:
        InputError: a broken frame.
    """

    def resized(t: int) -> np.ndarray:
        return stage.preprocess.resize(video.read_frame(int(t)))

    return Images(np.stack(list(spread(resized, indices))))


def encode_expressions(text: TextPipeline | None, video: SourceVideo) -> list[Expression]:
    """The text side of a video; nothing without a text pipeline.

    Raises:
        InputError: an empty or overlong expression; names it.
    """
    if text is None or not video.expressions:
        return []
    for expression in video.expressions:
        if not normalise(expression.text):
            raise InputError(
                f"expression {expression.id!r} of video {video.id!r} is empty: "
                "write a sentence or remove it"
            )
    encoded = text.encode([expression.text for expression in video.expressions])
    return [
        Expression(
            expression_id=source.id,
            text=source.text,
            object_ids=source.object_ids,
            annotation_ids=source.annotation_ids,
            tag=source.tag,
            **vars(features),
        )
        for source, features in zip(video.expressions, encoded, strict=True)
    ]
