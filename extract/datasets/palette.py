"""Masks as palette PNGs, one a frame: the value of a pixel is the id of the object there."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cache_schema.fingerprint import file_sha256
from cache_schema.host.cli import InputError
from extract.datasets.frames import image_header
from extract.datasets.records import RLE, Dataset, SourceExpression, encode_mask

#: Pixels that belong to nobody and count for nobody (DAVIS).
VOID = 255
#: Pillow's modes of images whose pixels are ids: palette and grey.
LABEL_MODES = ("P", "L")


def object_id(value: Any) -> str | None:
    """The id of an object, 1 to 254, as it should be written; None if it is anything else."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        return None
    text = str(value)
    if not (text.isascii() and text.isdecimal() and len(text) < 4):
        return None
    return str(int(text)) if 0 < int(text) < VOID else None


def mask_paths(folder: Path, video_id: str, frames: list[str]) -> list[Path]:
    """Where the masks of a video are, or would be."""
    return [folder / video_id / f"{name}.png" for name in frames]


class PaletteDataset(Dataset):
    """A data set with such masks. Objects and annotations have the same ids: the pixels' values.

    Attributes:
        root: its folder.
        annotations: folder of the masks; None in splits without ground truth.
        needs_masks: every frame has to have a mask; else a video that lacks some has no ground
            truth.
    """

    root: Path
    annotations: Path | None
    needs_masks: bool
    _files: list[Path]  # of text that were read

    def fingerprint(self) -> dict[str, str]:
        """SHA-256 of each file of text that was read; masks are not part of it."""
        return {path.relative_to(self.root).as_posix(): file_sha256(path) for path in self._files}

    def _objects(
        self, video_id: str, frames: list[str], expressions: list[SourceExpression]
    ) -> dict[str, list[RLE | None]]:
        """The objects that sentences mean, even if no listed frame shows them, and others shown."""
        targets = [i for expression in expressions for i in expression.annotation_ids]
        if self.annotations is None or len(targets) < len(expressions):
            return {}
        paths = mask_paths(self.annotations, video_id, frames)
        if not self.needs_masks and not all(path.is_file() for path in paths):
            return {}
        hidden = {target: [None] * len(frames) for target in targets}
        return hidden | read_objects(paths, video_id=video_id)


def read_objects(paths: list[Path], *, video_id: str) -> dict[str, list[RLE | None]]:
    """All objects of a video, by ascending id.

    Args:
        paths: the masks, one a frame.

    Returns:
        Object id (as a string, `VOID` included) -> one RLE a frame, None where it has no pixel.

    Raises:
        InputError: a mask is missing, broken, no palette or grey PNG, or of another size.
    """
    objects: dict[int, list[RLE | None]] = {}
    size = None
    for t, path in enumerate(paths):
        labels = _read(path, video_id)
        if size is not None and labels.shape != size:
            raise InputError(
                f"video {video_id}: the mask {path} is {labels.shape[0]}x{labels.shape[1]} (height"
                f" x width), the first one {size[0]}x{size[1]}; download the masks again"
            )
        size = labels.shape
        for value in np.flatnonzero(np.bincount(labels.ravel(), minlength=256)):
            if value:
                rles = objects.setdefault(int(value), [None] * len(paths))
                rles[t] = encode_mask(labels == value)
    return {str(value): objects[value] for value in sorted(objects)}


def _read(path: Path, video_id: str) -> np.ndarray:
    """(H, W) uint8 of object ids."""
    try:
        _, mode = image_header(path)
        with Image.open(path) as image:
            labels = np.asarray(image)
    except InputError as error:
        raise InputError(f"video {video_id}: the mask {error}; download it again") from None
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(
            f"video {video_id}: the mask {path} is broken ({error}); download it again"
        ) from None
    if mode not in LABEL_MODES:
        raise InputError(
            f"video {video_id}: the mask {path} is a picture of mode {mode}, not of object ids;"
            " use the palette PNGs as they were published"
        )
    return labels
