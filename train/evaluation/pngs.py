"""Predicted masks as PNG files, in the layouts of the benchmarks, at the original size.

MeViS and Ref-YouTube-VOS: ``<folder>/<video>/<expression>/<frame>.png``, 0 and 255. Ref-DAVIS17:
``<folder>/anno_{0..3}/<video>/<frame>.png``, object ids with a palette.
"""

from pathlib import Path

import numpy as np

from cache_schema.host import files
from cache_schema.host.cli import InputError
from cache_schema.names import escape
from train.evaluation.png_codec import PNG, encode_mask, object_pixels


def mask_name(video: str, expression: str, frame: str) -> str:
    """Where an expression's mask lies in its folder.

    Ids that are no plain file names are escaped as in the cache, so that none leaves the folder.
    """
    return f"{_plain(video)}/{_plain(expression)}/{_plain(frame)}.png"


def map_name(annotator: int, video: str, frame: str) -> str:
    """Where an annotator's map of objects lies in its folder."""
    return f"anno_{annotator}/{_plain(video)}/{_plain(frame)}.png"


def is_plain(part: str) -> bool:
    """Whether an id can be the name of a file or folder as it is, on the disk and in a zip."""
    return part.isprintable() and part not in ("", ".", "..") and not set(part) & set("/\\:")


def _plain(part: str) -> str:
    return part if is_plain(part) else escape(part)


def mask_path(folder: Path, video: str, expression: str, frame: str) -> Path:
    """`mask_name`, as a path."""
    return folder / mask_name(video, expression, frame)


def map_path(folder: Path, annotator: int, video: str, frame: str) -> Path:
    """`map_name`, as a path."""
    return folder / map_name(annotator, video, frame)


def write_mask(path: Path, mask: np.ndarray) -> None:
    """Write a mask, (H, W) bool.

    Raises:
        InputError: the file cannot be written.
    """
    write_png(path, encode_mask(mask))


def write_png(path: Path, data: bytes) -> None:
    """Write a PNG, and the folders above it.

    Raises:
        InputError: the file cannot be written.
    """
    files.write(path, data, durable=False)


def read_mask(path: Path) -> np.ndarray:
    """Read a mask, (H, W) bool: what is not zero.

    Raises:
        InputError: the file is missing or not an image.
    """
    try:
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        raise InputError(f"the mask {path} cannot be read ({error}); predict again") from None
    try:
        return object_pixels(PNG.parse(data))
    except ValueError as error:
        raise InputError(f"the mask {path} is not usable ({error}); predict again") from None
