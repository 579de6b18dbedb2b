"""Predicted masks as PNG files, in the layout of a MeViS submission.

``<folder>/<video>/<expression>/<frame>.png``, 0 and 255, at the original size of the video.
"""

import re
import zipfile
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np

from cache_schema.cli import InputError
from cache_schema.names import escape


def mask_path(folder: Path, video: str, expression: str, frame: str) -> Path:
    """Where a mask lies.

    Ids that are no plain file names are escaped as in the cache, so that none leaves the folder.
    """
    video, expression, frame = (
        part if re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9_. -]*", part) else escape(part)
        for part in (video, expression, frame)
    )
    return folder / video / expression / f"{frame}.png"


def write_mask(path: Path, mask: np.ndarray) -> None:
    """Write a mask, (H, W) bool.

    Raises:
        InputError: the file cannot be written.
    """
    written = False
    with suppress(OSError, cv2.error):
        path.parent.mkdir(parents=True, exist_ok=True)
        written = cv2.imwrite(str(path), mask.astype(np.uint8) * 255)
    if not written:
        raise InputError(f"{path} cannot be written; check the folder and the space left on it")


def read_mask(path: Path) -> np.ndarray:
    """Read a mask, (H, W) bool: what is not zero. A `zipfile.Path` will do as well.

    Raises:
        InputError: the file is missing or not an image.
    """
    try:
        data = np.frombuffer(path.read_bytes(), np.uint8)
    except (OSError, KeyError, ValueError, RuntimeError, zipfile.BadZipFile) as error:
        raise InputError(f"the mask {path} cannot be read ({error}); predict again") from None
    image = cv2.imdecode(data, cv2.IMREAD_GRAYSCALE) if len(data) else None
    if image is None:
        raise InputError(f"the mask {path} is not an image; every frame needs a PNG")
    return image > 0
