"""The true masks of a clip: the objects that an expression means and that the clip shows."""

from dataclasses import dataclass

import numpy as np

from cache_schema.cli import InputError
from cache_schema.reader import Video
from cache_schema.records import Expression
from cache_schema.run_lengths import run_ends
from train.data.buffers import Buffers
from train.data.rle import Sides, paint, sides
from train.losses import Targets


@dataclass
class Boxes:
    """Around each target in each frame.

    Attributes:
        boxes: (M, T, 4) float32, centre x, y, width and height as fractions of the image; anything
            where the target is not visible.
        visible: (M, T) bool.
    """

    boxes: np.ndarray
    visible: np.ndarray


def clip_targets(
    video: Video, expression: Expression, indices: np.ndarray, *, buffers: Buffers | None = None
) -> tuple[Targets, Boxes]:
    """The masks of the objects that the expression means and that the clip shows.

    Args:
        video: where the objects are.
        expression: names them by annotation id.
        indices: (T,) frames of the clip.
        buffers: where the masks are put.

    Returns:
        M objects with at least one visible pixel, at original size, and their boxes. The masks lie
        in memory column by column, as their runs come.

    Raises:
        InputError: an annotation is missing, or a mask cannot be decoded.
    """
    g = video.geometry
    objects = [
        _visible_runs(video, expression, annotation_id, indices)
        for annotation_id in dict.fromkeys(expression.annotation_ids)
    ]
    shown = [frames for frames in objects if any(frames)]
    size = (len(shown), len(indices))
    masks = (buffers or Buffers()).zeros((*size, g.width * g.height), np.dtype(np.uint8))
    boxes = Boxes(np.zeros((*size, 4), np.float32), np.zeros(size, bool))
    for m, frames in enumerate(shown):
        for t, frame in enumerate(frames):
            if frame:
                ends, place = frame
                paint(ends, masks[m, t].numpy())
                boxes.boxes[m, t], boxes.visible[m, t] = _box(place, g.height, g.width), True
    targets = Targets(
        masks.view(*size, g.width, g.height).transpose(2, 3),
        masks.new_zeros(len(shown)).long(),
        (g.resized_width / g.padded_width, g.resized_height / g.padded_height),
    )
    return targets, boxes


def _visible_runs(
    video: Video, expression: Expression, annotation_id: str, indices: np.ndarray
) -> list[tuple[np.ndarray, Sides] | None]:
    """The runs of one object's masks and the sides of its box; None in frames without a pixel."""
    if annotation_id not in video.annotation_ids:
        raise InputError(
            f"video {video.id!r}: expression {expression.expression_id!r} means annotation "
            f"{annotation_id!r}, which the cache does not hold; extract the video again"
        )
    height, width = video.geometry.height, video.geometry.width
    masks = video.object(annotation_id)
    rles = [masks[int(t)] for t in indices]
    try:
        runs = iter(run_ends([rle["counts"] for rle in rles if rle is not None], (height, width)))
    except ValueError as error:
        raise InputError(
            f"video {video.id!r}: a mask of annotation {annotation_id!r} cannot be decoded "
            f"({error}); extract the video again"
        ) from None
    found: list[tuple[np.ndarray, Sides] | None] = []
    for rle in rles:
        ends = None if rle is None else next(runs)
        place = None if ends is None else sides(ends, height)
        found.append((ends, place) if place else None)
    return found


def _box(place: Sides, height: int, width: int) -> list[float]:
    top, bottom, left, right = place
    return [
        (left + right) / (2 * width),
        (top + bottom) / (2 * height),
        (right - left) / width,
        (bottom - top) / height,
    ]
