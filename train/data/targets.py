"""The true masks of a clip: the objects that an expression means and that the clip shows."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cache_schema.host.cli import InputError
from cache_schema.reader import Video
from cache_schema.records import Expression
from train.masks.targets import Targets
from train.memory import Buffers
from train.run_lengths import paint


@dataclass
class ClipRuns:
    """The true masks of a clip before they are painted.

    Attributes:
        ids: annotation id of each of M targets.
        ends: of M targets in T frames where their runs end, see `cache_schema.run_lengths`; None
            where nothing is visible. Each target is visible somewhere.
        num_frames: T.
        size: (H, W), the original one.
        extent: see `train.losses.Targets`.
    """

    ids: list[str]
    ends: list[list[np.ndarray | None]]
    num_frames: int
    size: tuple[int, int]
    extent: tuple[float, float]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(M, T, H * W)."""
        height, width = self.size
        return len(self.ends), self.num_frames, height * width

    def visible(self) -> Iterator[tuple[int, int, np.ndarray]]:
        """Target, frame and ends of each mask that has a pixel."""
        for m, frames in enumerate(self.ends):
            for t, ends in enumerate(frames):
                if ends is not None:
                    yield m, t, ends

    def targets(self, masks: Tensor, labels: Tensor) -> Targets:
        """The targets of painted masks (M, T, W * H) uint8, which lie column by column."""
        height, width = self.size
        return Targets(masks.unflatten(2, (width, height)).transpose(2, 3), labels, self.extent)


def clip_targets(
    video: Video, expression: Expression, indices: np.ndarray, *, buffers: Buffers | None = None
) -> tuple[Targets, list[str]]:
    """The masks of the objects that the expression means and that the clip shows.

    Args:
        video, expression, indices: see `clip_runs`.
        buffers: where the masks are put.

    Returns:
        M objects with at least one visible pixel, at original size, and their annotation ids. The
        masks lie in memory column by column, as their runs come.

    Raises:
        InputError: an annotation is missing, or a mask cannot be decoded.
    """
    runs = clip_runs(video, expression, indices)
    masks = (buffers or Buffers()).zeros(runs.shape, np.dtype(np.uint8))
    painted = masks.numpy()
    for m, t, ends in runs.visible():
        paint(ends, painted[m, t])
    return runs.targets(masks, torch.zeros(len(masks), dtype=torch.int64)), runs.ids


def clip_runs(video: Video, expression: Expression, indices: np.ndarray) -> ClipRuns:
    """The same masks as runs, not painted yet.

    Args:
        indices: (T,) frames of the clip.

    Raises:
        InputError: an annotation is missing, or a mask cannot be decoded.
    """
    g = video.geometry
    shown = {}
    for annotation_id in expression.annotation_ids:
        with _sound(video, expression, annotation_id):
            frames = video.ends(annotation_id, indices)
        if any(ends is not None for ends in frames):
            shown[annotation_id] = frames
    return ClipRuns(
        list(shown),
        list(shown.values()),
        len(indices),
        (g.height, g.width),
        (g.resized_width / g.padded_width, g.resized_height / g.padded_height),
    )


def toggles(clips: Sequence[ClipRuns]) -> np.ndarray:
    """The masks of several clips one after the other, as the pixels at which they change.

    Returns:
        int64 numbers of pixels, from 0 to the number of all pixels of all masks; a pixel is set if
        an odd number of them is up to it.
    """
    parts, start = [np.empty(0, np.int64)], 0
    for clip in clips:
        targets, frames, pixels = clip.shape
        for m, t, ends in clip.visible():
            # Nothing of a mask goes on in the next one: the last end counts where it is needed.
            own = ends[: len(ends) // 2 * 2]
            parts.append(own + (start + (m * frames + t) * pixels))
        start += targets * frames * pixels
    return np.concatenate(parts)


def paint_all(changes: Tensor, clips: Sequence[ClipRuns]) -> tuple[list[Targets], list[Tensor]]:
    """Paint the masks of several clips in a few operations, on any device.

    Args:
        changes: of `toggles`.
        clips: the same.

    Returns:
        The targets of each clip, and the memory that they lie in.
    """
    sizes = [int(np.prod(clip.shape)) for clip in clips]
    pixels = torch.zeros(sum(sizes) + 1, dtype=torch.uint8, device=changes.device)
    pixels.index_add_(0, changes, torch.ones_like(changes, dtype=torch.uint8))
    # Sums go round at 256, which is even.
    pixels = pixels.cumsum(0, dtype=torch.uint8).bitwise_and_(1)
    most = max((clip.shape[0] for clip in clips), default=0)
    labels = torch.zeros(most, dtype=torch.int64, device=changes.device)
    targets = [
        clip.targets(own.view(clip.shape), labels[: clip.shape[0]])
        for clip, own in zip(clips, pixels[:-1].split(sizes), strict=True)
    ]
    return targets, [pixels, labels]


def shown_ids(video: Video, expression: Expression, indices: np.ndarray) -> list[str]:
    """`ClipRuns.ids` alone. Raises as `clip_runs` does."""
    found = []
    for annotation_id in expression.annotation_ids:
        with _sound(video, expression, annotation_id):
            if video.visible(annotation_id)[indices].any():
                found.append(annotation_id)
    return found


@contextmanager
def _sound(video: Video, expression: Expression, annotation_id: str) -> Iterator[None]:
    """Say of an object whose masks are read in the block that they are missing or broken."""
    if annotation_id not in video.annotation_ids:
        raise InputError(
            f"video {video.id!r}: expression {expression.expression_id!r} means annotation "
            f"{annotation_id!r}, which the cache does not hold; extract the video again"
        )
    try:
        yield
    except ValueError as error:
        raise InputError(
            f"video {video.id!r}: a mask of annotation {annotation_id!r} cannot be decoded "
            f"({error}); extract the video again"
        ) from None
