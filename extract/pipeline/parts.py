"""What flows through the pipeline: a stream of ``(video id, part)``, video after video.

A video that can be opened starts with its `Head`; its frames follow, and it ends with what has
become of `End`. Wherever it turns out that a video cannot be extracted, `Failed` is its last part.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any

import numpy as np
import torch
from pycocotools import mask as coco
from torch import Tensor

from cache_schema.host.cli import InputError
from cache_schema.records import RLE, CodecIoU, Expression, Geometry
from extract.segmenters.base import FrameOutput

#: How the note of an unexpected error starts, before the video's id.
NOTE = "while extracting video "


@dataclass
class Head:
    """What is known of a video before the model has seen it.

    Attributes:
        frame_times: (T,) int32, which frame of the video each is.
        cells: the objects on the feature map, see `extract.segmenters.masks.object_cells`.
    """

    geometry: Geometry
    frame_names: list[str]
    frame_times: np.ndarray
    expressions: list[Expression]
    objects: dict[str, list[RLE | None]]
    cells: np.ndarray | None

    def shown(self) -> np.ndarray:
        """(T,) bool: whether a frame shows an object."""
        shown = np.zeros(len(self.frame_names), bool)
        for masks in self.objects.values():
            shown |= [mask is not None and coco.area(mask) > 0 for mask in masks]
        return shown


@dataclass
class Images:
    """Resized frames that go through the model together: (t, H', W', 3) uint8."""

    pixels: np.ndarray


@dataclass
class End:
    """All frames of the video have been read."""


@dataclass
class Frames:
    """The frame level of `Images`, on the device.

    Attributes:
        output: see `FrameOutput`.
        computed: when the device is done with it; None where results are there at once.
    """

    output: FrameOutput
    computed: torch.cuda.Event | None


@dataclass
class Clips:
    """The video level, on the device: of the whole video first, then of each clip of its bank.

    Attributes:
        bank: (K, T_c) int32, the frames of each clip.
        frame_queries: (T, N_v, C) of the queries that are stored; None where all are, and went with
            `Frames`.
        video_queries: (1+K, N_v, C).
        logits: (1+K, N_v, classes+1).
        mask_embeds: of each, (N_v, C_mask), or (T, N_v, C_mask) with the clip's T.
        computed: as in `Frames`.
    """

    bank: np.ndarray
    frame_queries: Tensor | None
    video_queries: Tensor
    logits: Tensor
    mask_embeds: list[Tensor]
    computed: torch.cuda.Event | None


@dataclass
class CodedFrames:
    """`Frames` as they are stored, on the host; without queries where only some are stored."""

    frame_queries: np.ndarray | None
    mask_features: dict[str, np.ndarray]

    @property
    def nbytes(self) -> int:
        """Of the arrays."""
        arrays = (self.frame_queries, *self.mask_features.values())
        return sum(array.nbytes for array in arrays if array is not None)


@dataclass
class CodedClips:
    """`Clips` on the host, and what the codec costs the video.

    Attributes:
        measured: what `video_tracks` would say, if that was measured on the device.
    """

    bank: np.ndarray
    frame_queries: np.ndarray | None
    video_queries: np.ndarray
    logits: np.ndarray
    mask_embeds: list[np.ndarray]
    codec_iou: CodecIoU | None
    measured: list[tuple[np.ndarray, np.ndarray | None]] | None = None


@dataclass
class Written:
    """The video is in the cache, with this many frames."""

    frames: int


@dataclass
class Failed:
    """The video cannot be extracted, and why."""

    reason: str


def by_video(
    parts: Iterable[tuple[str, Any]], work: Callable[[str, Iterator[Any]], Iterable[Any]]
) -> Iterator[tuple[str, Any]]:
    """Each video's parts through a generator function; bad input ends the video and no other.

    Args:
        work: takes a video's id and its parts up to one that failed, and yields other parts.

    Raises:
        Exception: any other error of ``work``, with a note that names the video.
    """
    for video_id, group in groupby(parts, key=itemgetter(0)):
        try:
            for part in work(video_id, _until_failed(group)):
                yield video_id, part
        except InputError as error:
            yield video_id, Failed(str(error))
        except Exception as error:
            # An error on its way through later stages is about the video that was at work first.
            if not any(note.startswith(NOTE) for note in getattr(error, "__notes__", ())):
                error.add_note(f"{NOTE}{video_id!r}")
            raise


def _until_failed(group: Iterable[tuple[str, Any]]) -> Iterator[Any]:
    for _, part in group:
        if isinstance(part, Failed):
            raise InputError(part.reason)
        yield part
