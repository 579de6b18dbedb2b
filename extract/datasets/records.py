"""What every data set hands to the pipeline: videos, their expressions and their masks."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict

import cv2
import numpy as np

from cache_schema.cli import InputError


class RLE(TypedDict):
    """A mask of one frame, COCO's compressed run lengths: ``size`` is [H, W]."""

    size: list[int]
    counts: str


@dataclass(frozen=True, kw_only=True)
class SourceExpression:
    """A sentence about a video, as its author wrote it, and the objects that it means."""

    id: str
    text: str
    object_ids: list[str]
    annotation_ids: list[str]
    tag: str = ""


@dataclass(kw_only=True)
class SourceVideo:
    """A video on disk: either one image a frame, or one file that OpenCV decodes.

    Args:
        id: name within the data set.
        frame_names: one a frame, in order, without extension.
        frame_paths: one image a frame; empty if the video is a file.
        video_path: the video file; None if the frames are images.
        expressions: the sentences, possibly none.
        objects: annotation id -> one RLE (or None where the object is absent) a frame, at the
            size of the frames; empty without ground truth.
    """

    id: str
    frame_names: list[str]
    frame_paths: list[Path] = field(default_factory=list)
    video_path: Path | None = None
    expressions: list[SourceExpression] = field(default_factory=list)
    objects: dict[str, list[RLE | None]] = field(default_factory=dict)
    _size: tuple[int, int] | None = field(default=None, init=False, repr=False, compare=False)
    _decoder: VideoDecoder | None = field(default=None, init=False, repr=False, compare=False)

    @property
    def num_frames(self) -> int:
        return len(self.frame_names)

    def size(self) -> tuple[int, int]:
        """(H, W) of the first frame.

        Raises:
            InputError: the frame is missing or broken, or a mask has another size.
        """
        if self._size is None:
            size = self._decode(0).shape[:2]
            for annotation_id, masks in self.objects.items():
                for name, mask in zip(self.frame_names, masks, strict=True):
                    if mask is not None and tuple(mask["size"]) != size:
                        raise InputError(
                            f"video {self.id}: the mask of annotation {annotation_id} in frame"
                            f" {name} is {_by(mask['size'])} (height x width), but the frames are"
                            f" {_by(size)}; use the masks that belong to these frames"
                        )
            self._size = size
        return self._size

    def read_frame(self, index: int) -> np.ndarray:
        """One frame, (H, W, 3) uint8 RGB. Reading in order is fast for video files as well.

        Raises:
            InputError: the frame is missing, cannot be decoded, or differs in size from the first.
        """
        size = self.size()
        image = self._decode(index)
        if image.shape[:2] != size:
            raise InputError(
                f"video {self.id}: frame {self._where(index)} is {_by(image.shape)} (height x"
                f" width), but the first frame is {_by(size)}; all frames of a video need one size"
            )
        return image

    def _where(self, index: int) -> str:
        return str(self.frame_paths[index] if self.video_path is None else self.frame_names[index])

    def _decode(self, index: int) -> np.ndarray:
        if self.video_path is None:
            return read_image(self.frame_paths[index], video_id=self.id)
        if self._decoder is None:
            self._decoder = VideoDecoder(self.video_path, video_id=self.id)
        return self._decoder.read(index)


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


def _cut_short(data: bytes) -> bool:
    """Whether a JPEG or PNG lacks its end, which OpenCV 4 fills with grey without an error."""
    if data.startswith(b"\xff\xd8"):
        # Inside of compressed JPEG data 0xff is escaped: the last scan must meet an end marker.
        return data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda")
    return data.startswith(b"\x89PNG") and b"IEND" not in data[-1024:]


class VideoDecoder:
    """Frames of a video file by index. Reading on is cheap; going back starts from frame 0."""

    def __init__(self, path: Path, *, video_id: str) -> None:
        self.path, self.video_id = path, video_id
        self._open()

    def _open(self) -> None:
        # FFmpeg only: other backends would take a name such as "a%03d.mp4" for a pattern.
        self._capture = cv2.VideoCapture(str(self.path), cv2.CAP_FFMPEG)
        self._next = 0
        if not self._capture.isOpened():
            raise self._error("cannot be opened as a video")

    def _error(self, what: str) -> InputError:
        return InputError(
            f"video {self.video_id}: {self.path} {what}; check that it plays, convert it to MP4"
            " (H.264), or unpack it to a folder of images"
        )

    def count(self) -> int:
        """Number of frames, counted by going through the file: headers only estimate it."""
        while self._capture.grab():
            self._next += 1
        return self._next

    def read(self, index: int) -> np.ndarray:
        """Frame `index`, (H, W, 3) uint8 RGB; InputError if it cannot be decoded."""
        if index < self._next:
            self._open()
        good = True
        while good and self._next <= index:
            good = self._capture.grab()
            self._next += 1
        good, image = self._capture.retrieve() if good else (False, None)
        if not good:
            raise self._error(f"cannot be decoded at frame {index}")
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def check_rle(value: Any) -> str | None:
    """What is wrong with a JSON value that should be an `RLE`, or None.

    Run lengths are decoded (vectorised: about 30 us for a usual mask) and must fill the mask
    exactly, because COCO's C code trusts them.
    """
    if not isinstance(value, dict) or not {"size", "counts"} <= value.keys():
        return "is not an object with the keys size and counts"
    size, counts = value["size"], value["counts"]
    if not (isinstance(size, list) and len(size) == 2 and all(type(n) is int for n in size)):
        return "has a size that is not [height, width]"
    if not isinstance(counts, str) or not counts.isascii():
        return "has counts that are not a compressed COCO string"
    codes = np.frombuffer(counts.encode(), np.uint8).astype(np.int64) - 48
    if codes.size == 0 or codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        return "has counts that are not a compressed COCO string"
    # Each run is little-endian groups of 5 bits; bit 5 says that more follow.
    ends = np.flatnonzero(codes & 32 == 0)
    starts = np.concatenate([[0], ends[:-1] + 1])
    place = np.arange(codes.size) - np.repeat(starts, ends - starts + 1)
    if place.max() > 6:
        return "has counts beyond any image"
    runs = np.add.reduceat((codes & 31) << (5 * place), starts)
    negative = codes[ends] & 16 != 0
    runs -= np.where(negative, 1 << (5 * (ends - starts + 1)), 0)
    # From the fourth run on, the difference to the run two before is stored.
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    if runs.min() < 0 or runs.sum() != size[0] * size[1]:
        return f"has counts that do not fill its {_by(size)} pixels"
    return None


def _by(size: Any) -> str:
    return f"{size[0]}x{size[1]}"
