"""Where the frames of a video come from: image files, or one file that OpenCV decodes."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from cache_schema.host.cli import InputError
from cache_schema.host.limits import beyond
from cache_schema.names import check_text
from extract.datasets.archives import Inside

Image.MAX_IMAGE_PIXELS = None  # our own limit is looked at before anything is decoded
ORIENTATION = 0x0112
#: Orientations that exchange height and width.
SIDEWAYS = (5, 6, 7, 8)
#: By EXIF orientation: from the image as it is stored to how it is shown.
TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda image: image,
    2: lambda image: cv2.flip(image, 1),
    3: lambda image: cv2.flip(image, -1),
    4: lambda image: cv2.flip(image, 0),
    5: cv2.transpose,
    6: lambda image: cv2.rotate(image, cv2.ROTATE_90_CLOCKWISE),
    7: lambda image: cv2.flip(cv2.transpose(image), -1),
    8: lambda image: cv2.rotate(image, cv2.ROTATE_90_COUNTERCLOCKWISE),
}


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
    """One image file a frame, ``turned`` as its EXIF orientation says or as it is stored.

    The files may lie in an archive, see `extract.datasets.archives`.
    """

    paths: list[Path | Inside]
    video_id: str
    turned: bool = True

    def read(self, index: int) -> np.ndarray:
        return read_image(self.paths[index], video_id=self.video_id, turned=self.turned)

    def where(self, index: int) -> str:
        return str(self.paths[index])


def read_image(path: Path | Inside, *, video_id: str, turned: bool = True) -> np.ndarray:
    """Decode an image file to (H, W, 3) uint8 RGB.

    Args:
        turned: as the EXIF orientation says (as detectron2 and OpenCV do), not as it is stored.

    Raises:
        InputError: missing, unreadable, cut short, not an image, or of more pixels than are
            read; names file and video.
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
    height, width, orientation = _header(data)
    if much := beyond(height * width, "DMVS_MAX_PIXELS"):
        raise InputError(
            f"video {video_id}: frame {path} says that it is {height}x{width} (height x width),"
            f" {much}; replace it"
        )
    how = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image = None if _cut_short(data) else cv2.imdecode(np.frombuffer(data, np.uint8), how)
    except cv2.error:  # an empty file, or a picture beyond OpenCV's limits
        image = None
    if image is None:
        raise InputError(
            f"video {video_id}: frame {path} is broken or not an image ({len(data)} bytes);"
            " replace it with a whole copy"
        )
    image = TURNS[orientation if turned else 1](image)
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _header(data: bytes) -> tuple[int, int, int]:
    """Height, width and EXIF orientation (1 to 8) of an image as it is stored; 0 if unknown."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return image.height, image.width, _orientation(image)
    except Exception:  # whatever a broken file makes of Pillow: OpenCV decides
        return 0, 0, 1


def _orientation(image: Image.Image) -> int:
    try:
        found = image.getexif().get(ORIENTATION, 1)
    except Exception:  # broken EXIF data are none
        return 1
    return found if found in TURNS else 1


def orientation(path: Path | Inside) -> int:
    """EXIF orientation of an image file, 1 to 8; 1 is as it is stored."""
    try:
        with path.open("rb") as file, Image.open(file) as image:
            return _orientation(image)
    except (OSError, SyntaxError, ValueError):
        return 1  # reading it will say what is wrong


def image_header(path: Path | Inside) -> tuple[tuple[int, int], str]:
    """(H, W) as stored and Pillow's mode of an image file, from its first bytes alone.

    Raises:
        InputError: missing, unreadable, or not an image.
    """
    try:
        with path.open("rb") as file, Image.open(file) as image:
            if much := beyond(image.width * image.height, "DMVS_MAX_PIXELS"):
                raise InputError(f"{path} says that it is {image.height}x{image.width}, {much}")
            return image.size[::-1], image.mode
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    except UnidentifiedImageError:
        raise InputError(f"{path} is not an image ({len(path.read_bytes())} bytes)") from None
    except (OSError, SyntaxError, ValueError) as error:
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
        # OpenCV crashes at others.
        check_text(str(self.path), f"video {self.video_id}: the name of its file")
        # FFmpeg only: other backends would take a name such as "a%03d.mp4" for a pattern.
        capture = cv2.VideoCapture(str(self.path), cv2.CAP_FFMPEG)
        if not capture.isOpened():
            raise self._error("cannot be opened as a video")
        pixels = capture.get(cv2.CAP_PROP_FRAME_WIDTH) * capture.get(cv2.CAP_PROP_FRAME_HEIGHT)
        if much := beyond(int(pixels), "DMVS_MAX_PIXELS"):
            raise self._error(f"has frames of {much}")
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
