"""Videos made of one image, as VITA and IFC make them of COCO: it turns while the view drifts.

A clip is drawn once: a crop whose window drifts (in half of the clips), one size, a flip (in half),
and angles within +-15 degrees that only grow or only fall, around one centre. All of it is one
affine map a frame, which images take with bilinear and masks with nearest sampling. The numbers
are those of VITA's configurations ("INPUT.PSEUDO").
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np

from cache_schema.host.cli import InputError
from extract.datasets.frames import read_image

ANGLE = 15.0
#: Where the centre of the rotation is, as fractions of height and width.
CENTRE = (0.4, 0.6)
#: Short sides of a clip, and the longest long side.
SHORT, LONG = (288, 320, 352, 384, 416, 448, 480, 512), 768
#: Before a crop the short side is one of these; the window's sides are in the range.
CROP_SHORT, CROP_LONG, CROP_SIDES = (400, 500, 600), 1333, (384, 600)
#: A crop is taken back if it leaves less of any object in any frame.
VISIBLE = 0.5


@dataclass(frozen=True, eq=False)
class Warp:
    """How an image becomes a clip of T frames.

    Attributes:
        size: (H, W) of the frames.
        flipped: whether left and right are exchanged.
        maps: (T, 2, 3) float64, pixel (x, y, 1) of the image -> pixel (x, y) of a frame.
    """

    size: tuple[int, int]
    flipped: bool
    maps: np.ndarray

    def image(self, image: np.ndarray, t: int) -> np.ndarray:
        """Frame t of an image; black where it shows what lies outside of the image."""
        return cv2.warpAffine(image, self.maps[t], self.size[::-1], flags=cv2.INTER_LINEAR)

    def mask(self, mask: np.ndarray, t: int) -> np.ndarray:
        """Frame t of a mask, (H, W) uint8."""
        return cv2.warpAffine(mask, self.maps[t], self.size[::-1], flags=cv2.INTER_NEAREST)


@dataclass(frozen=True, eq=False)
class Draw:
    """A clip as it was drawn: with a crop or, if that would hide an object, without."""

    whole: Warp
    cropped: Warp | None

    @property
    def flipped(self) -> bool:
        return self.whole.flipped

    def settle(self, masks: list[np.ndarray]) -> Warp:
        """The clip to take, given the masks, (H, W) uint8, of the objects to keep in view."""
        if self.cropped is None or not _in_view(self.cropped, masks):
            return self.whole
        return self.cropped


def draw_clip(rng: np.random.Generator, size: tuple[int, int], *, frames: int) -> Draw:
    """Draw a clip of T frames of an image of (H, W) pixels."""
    window = _draw_window(rng, *size, frames) if rng.random() < 0.5 else None
    short, flipped = int(rng.choice(SHORT)), bool(rng.random() < 0.5)
    angles = np.sort(rng.uniform(-ANGLE, ANGLE, frames))[:: 1 if rng.random() < 0.5 else -1]
    centre = rng.uniform(*CENTRE, size=2)

    def compose(boxes: np.ndarray) -> Warp:
        shown = _resized(*boxes[0, 2:], short, LONG)
        return Warp(shown, flipped, _maps(boxes, shown, flipped, angles, centre))

    whole = np.tile(np.array([0, 0, *size], float), (frames, 1))
    return Draw(compose(whole), None if window is None else compose(window))


def _draw_window(rng: np.random.Generator, height: int, width: int, frames: int) -> np.ndarray:
    """(T, 4) of top, left, height, width in pixels of the image: one size, moving one way."""
    resized = _resized(height, width, int(rng.choice(CROP_SHORT)), CROP_LONG)
    sides = [rng.integers(min(n, CROP_SIDES[0]), min(n, CROP_SIDES[1]) + 1) for n in resized]
    # The window goes from one place to another, at uneven speed.
    places = [rng.integers(0, n - side + 1, 2) for n, side in zip(resized, sides, strict=True)]
    along = np.sort(rng.random(frames))
    top, left = (a + (b - a) * along for a, b in places)
    boxes = np.stack([top, left, *np.broadcast_to(np.array(sides)[:, None], (2, frames))], axis=1)
    return boxes * np.tile([height / resized[0], width / resized[1]], 2)


def _resized(height: float, width: float, short: int, longest: int) -> tuple[int, int]:
    scale = min(short / min(height, width), longest / max(height, width))
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def _maps(
    boxes: np.ndarray, size: tuple[int, int], flipped: bool, angles: np.ndarray, centre: np.ndarray
) -> np.ndarray:
    """(T, 2, 3): crop to a box, resize to `size`, flip, rotate.

    Between the half-pixel shifts at both ends, pixel i covers the interval from i to i + 1.
    """
    height, width = size
    cy, cx = centre * size
    maps = []
    for (top, left, box_height, box_width), angle in zip(boxes, np.deg2rad(angles), strict=True):
        crop = _shift(-left, -top)
        resize = np.diag([width / box_width, height / box_height, 1.0])
        flip = _shift(width, 0) @ np.diag([-1.0, 1.0, 1.0]) if flipped else np.eye(3)
        cos, sin = np.cos(angle), np.sin(angle)
        turn = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
        turn = _shift(cx, cy) @ turn @ _shift(-cx, -cy)
        maps.append(_shift(-0.5, -0.5) @ turn @ flip @ resize @ crop @ _shift(0.5, 0.5))
    return np.stack(maps)[:, :2]


def _shift(x: float, y: float) -> np.ndarray:
    return np.array([[1.0, 0, x], [0, 1.0, y], [0, 0, 1.0]])


def _in_view(warp: Warp, masks: list[np.ndarray]) -> bool:
    scale = abs(np.linalg.det(warp.maps[0, :, :2]))
    return all(
        np.count_nonzero(warp.mask(mask, t)) >= VISIBLE * scale * np.count_nonzero(mask)
        for mask in masks
        for t in range(len(warp.maps))
    )


@dataclass(frozen=True, eq=False)
class WarpedImage:
    """Frames of a clip that is made of one image file (a `FrameSource`).

    Args:
        size: (H, W) that the image must have: that of its annotations.
        masks: called once, for what `Draw.settle` takes.
    """

    path: Path
    size: tuple[int, int]
    draw: Draw
    masks: Callable[[], list[np.ndarray]]
    video_id: str

    @cached_property
    def warp(self) -> Warp:
        return self.draw.settle(self.masks())

    def read(self, index: int) -> np.ndarray:
        return self.warp.image(self._image, index)

    def where(self, index: int) -> str:
        return f"{self.path}, warp {index}"

    @cached_property
    def _image(self) -> np.ndarray:
        image = read_image(self.path, video_id=self.video_id)
        if image.shape[:2] != self.size:  # the annotations' size decides on an EXIF orientation
            image = read_image(self.path, video_id=self.video_id, turned=False)
        if image.shape[:2] != self.size:
            raise InputError(
                f"video {self.video_id}: the image {self.path} is {image.shape[0]}x"
                f"{image.shape[1]} (height x width), its annotations say {self.size[0]}x"
                f"{self.size[1]}; use the images of COCO 2014 as published"
            )
        return image
