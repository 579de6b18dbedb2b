"""Where the frames of a video come from: image files, or one file that OpenCV decodes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from cache_schema.cli import InputError


class FrameSource(Protocol):
    """Anything that yields the frames of one video by index."""

    def read(self, index: int) -> np.ndarray:
        """Frame `index`, (H, W, 3) uint8 RGB; InputError if it cannot be had."""
        ...

    def where(self, index: int) -> str:
        """What to call frame `index` in an error message."""
        ...


@dataclass(frozen=True)
class ImageFiles:
    """One image file a frame."""

    paths: list[Path]
    video_id: str

    def read(self, index: int) -> np.ndarray:
        return read_image(self.paths[index], video_id=self.video_id)

    def where(self, index: int) -> str:
        return str(self.paths[index])


def read_image(path: Path, *, video_id: str) -> np.ndarray:
    """Decode an image file to (H, W, 3) uint8 RGB.

    Raises:
        InputError: missing, unreadable, cut short, or not an image; names file and video.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise InputError(
            f"video {video_id}: frame {path} does not exist; complete the download of this video"
        ) from None
    except OSError as error:
        raise InputError(
            f"video {video_id}: frame {path} cannot be read ({error.strerror}); check the file and"
            " its permissions"
        ) from None
    try:
        image = None if _cut_short(data) else cv2.imdecode(np.frombuffer(data, np.uint8), 1)
    except cv2.error:  # an empty file, or a picture beyond OpenCV's limits
        image = None
    if image is None:
        raise InputError(
            f"video {video_id}: frame {path} is broken or not an image ({len(data)} bytes);"
            " replace it with a whole copy"
        )
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def image_header(path: Path) -> tuple[tuple[int, int], str]:
    """(H, W) and Pillow's mode of an image file, from its first bytes alone.

    Raises:
        InputError: missing, unreadable, or not an image.
    """
    try:
        with Image.open(path) as image:
            return image.size[::-1], image.mode
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    except UnidentifiedImageError:
        raise InputError(f"{path} is not an image ({path.stat().st_size} bytes)") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"{path} cannot be read ({error})") from None


def _cut_short(data: bytes) -> bool:
    """Whether a JPEG or PNG lacks its end, which OpenCV 4 fills with grey without an error."""
    if data.startswith(b"\xff\xd8"):
        # Inside of compressed JPEG data 0xff is escaped: the last scan must meet an end marker.
        return data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda")
    return data.startswith(b"\x89PNG") and b"IEND" not in data[-1024:]


class VideoDecoder:
    """Frames of a video file by index. Reading on is cheap; going back starts from frame 0.

    The file is opened when a frame is first asked for.
    """

    def __init__(self, path: Path, *, video_id: str) -> None:
        self.path, self.video_id = path, video_id
        self._capture: cv2.VideoCapture | None = None
        self._next = 0

    def _open(self) -> cv2.VideoCapture:
        # FFmpeg only: other backends would take a name such as "a%03d.mp4" for a pattern.
        capture = cv2.VideoCapture(str(self.path), cv2.CAP_FFMPEG)
        if not capture.isOpened():
            raise self._error("cannot be opened as a video")
        self._next = 0
        return capture

    def _error(self, what: str) -> InputError:
        return InputError(
            f"video {self.video_id}: {self.path} {what}; check that it plays, convert it to MP4"
            " (H.264), or unpack it to a folder of images"
        )

    def where(self, index: int) -> str:
        return f"{self.path}, frame {index}"

    def count(self) -> int:
        """Number of frames, counted by going through the file: headers only estimate it."""
        capture, frames = self._open(), 0
        while capture.grab():
            frames += 1
        return frames

    def read(self, index: int) -> np.ndarray:
        """Frame `index`, (H, W, 3) uint8 RGB; InputError if it cannot be decoded."""
        if self._capture is None or index < self._next:
            self._capture = self._open()
        good = True
        while good and self._next <= index:
            good = self._capture.grab()
            self._next += 1
        good, image = self._capture.retrieve() if good else (False, None)
        if not good:
            raise self._error(f"cannot be decoded at frame {index}")
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
