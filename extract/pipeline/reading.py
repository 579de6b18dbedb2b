"""What is ready before the model asks for it: prepared frames and encoded sentences."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np

from cache_schema.host.cli import InputError
from cache_schema.host.cores import SPARE_THREADS
from cache_schema.records import Expression, Geometry
from extract.datasets import SourceVideo
from extract.datasets.frames import ImageFiles
from extract.pipeline.parts import End, Head, Images, by_video
from extract.stage import Stage
from extract.text import TextPipeline, normalise


class Dataset(Protocol):
    """What is needed of a data set; see `extract.datasets`."""

    @property
    def ids(self) -> list[str]:
        """Of the videos, in their order."""

    def video(self, video_id: str, *, objects: bool = True) -> SourceVideo:
        """A video, with its masks or without; InputError if something is wrong with it."""


def read(stage: Stage, dataset: Dataset, video_ids: Iterable[str]) -> Iterator[tuple[str, Any]]:
    """The `Head` of each video, its frames as `Images`, and `End`."""

    def parts(video_id: str, _: Iterator[None]) -> Iterator[Head | Images | End]:
        video = dataset.video(video_id)
        expressions = encode_expressions(stage.text, video)
        for number, (images, geometry) in enumerate(chunks(stage, video, range(video.num_frames))):
            if number == 0:
                yield Head(geometry, video.frame_names, expressions, video.objects)
            yield images
        yield End()

    return by_video(((video_id, None) for video_id in video_ids), parts)


def chunks(
    stage: Stage, video: SourceVideo, indices: Sequence[int]
) -> Iterator[tuple[Images, Geometry]]:
    """Resized frames of a video, as many at a time as the stage says, with the sizes they take.

    Raises:
        InputError: a broken frame.
    """

    geometry = stage.preprocess.geometry(*video.size())
    step = stage.frames_together(geometry)
    with ThreadPoolExecutor(SPARE_THREADS) as pool:
        # Only image files can be read in any order.
        spread = pool.map if isinstance(video.frames, ImageFiles) else map
        for start in range(0, len(indices), step):
            yield images_of(stage, video, indices[start : start + step], spread), geometry


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
            words=features.words,
            sentence=features.sentence,
            static=features.static,
            motion=features.motion,
            offsets=features.offsets,
        )
        for source, features in zip(video.expressions, encoded, strict=True)
    ]
