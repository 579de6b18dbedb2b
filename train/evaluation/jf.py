"""J (region similarity) and F (boundary accuracy) of binary masks, as DAVIS and MeViS score them.

Perazzi et al., "A Benchmark Dataset and Evaluation Methodology for Video Object Segmentation",
CVPR 2016, in the form of the DAVIS 2017 evaluation that MeViS took over.

An `Outline` is what one mask brings to any comparison, cut to where it matters; a truth that is
compared with many predictions is prepared once.
"""

from functools import cached_property, lru_cache

import cv2
import numpy as np

BOUNDARY_FRACTION = 0.008  # of the image diagonal


@lru_cache(maxsize=64)
def boundary_radius(height: int, width: int) -> int:
    """Distance in pixels within which two boundary pixels match: ceil(0.008 x diagonal)."""
    return int(np.ceil(BOUNDARY_FRACTION * np.linalg.norm((height, width))))


@lru_cache(maxsize=64)
def _disk(radius: int) -> np.ndarray:
    """All within the radius of the middle, (2 radius + 1, 2 radius + 1) uint8."""
    y, x = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    return (x * x + y * y <= radius * radius).astype(np.uint8)


class Outline:
    """A mask as J and F need it: its pixels, its boundary and what is near the boundary.

    Args:
        mask: (H, W) bool.
    """

    def __init__(self, mask: np.ndarray) -> None:
        height, width = self.size = (mask.shape[0], mask.shape[1])
        self._radius = boundary_radius(height, width)
        pixels = np.ascontiguousarray(mask, bool).view(np.uint8)
        x, y, columns, rows = cv2.boundingRect(pixels)
        # The boundary lies up to one pixel above and before the mask. An empty mask keeps nothing.
        reach = self._radius + 1 if rows else 0
        self._top, self._left = max(y - reach, 0), max(x - reach, 0)
        self._bottom, self._right = min(y + rows + reach, height), min(x + columns + reach, width)
        self._pixels = pixels[self._top : self._bottom, self._left : self._right].copy()
        self.area = int(np.count_nonzero(self._pixels))

    @cached_property
    def _edge(self) -> np.ndarray:
        """Boundary pixels: those unlike their right, lower or lower right neighbour.

        A border of the image is no boundary: a full mask has none.
        """
        pixels = self._pixels
        edge = np.zeros_like(pixels)
        edge[:, :-1] = pixels[:, :-1] ^ pixels[:, 1:]
        edge[:-1] |= pixels[:-1] ^ pixels[1:]
        edge[:-1, :-1] |= pixels[:-1, :-1] ^ pixels[1:, 1:]
        return edge

    @cached_property
    def length(self) -> int:
        """Number of boundary pixels."""
        return int(np.count_nonzero(self._edge))

    @cached_property
    def _near(self) -> np.ndarray:
        """All within the radius of a boundary pixel."""
        return cv2.dilate(self._edge, _disk(self._radius))

    def _shared(self, other: "Outline") -> tuple[slice, slice]:
        """The rows and columns of this one's arrays that the other one has, too."""
        top, bottom = max(self._top, other._top), min(self._bottom, other._bottom)
        left, right = max(self._left, other._left), min(self._right, other._right)
        rows = slice(top - self._top, max(bottom, top) - self._top)
        return rows, slice(left - self._left, max(right, left) - self._left)


def scores(truth: Outline, prediction: Outline) -> tuple[float, float]:
    """J and F of one frame.

    Returns:
        J = intersection over union, 1 if both masks are empty.
        F = harmonic mean of the boundaries' precision and recall. Both boundaries empty: 1;
        one of them: 0. So a full mask against an empty one has J = 0 and F = 1.

    Raises:
        ValueError: the masks are of two sizes.
    """
    if truth.size != prediction.size:
        raise ValueError(f"masks of the sizes {truth.size} and {prediction.size}")
    a, b = truth._shared(prediction), prediction._shared(truth)
    overlap = np.count_nonzero(truth._pixels[a] & prediction._pixels[b])
    union = truth.area + prediction.area - overlap
    region = overlap / union if union else 1.0
    if not (truth.length and prediction.length):
        return region, float(truth.length == prediction.length)
    recall = np.count_nonzero(truth._edge[a] & prediction._near[b]) / truth.length
    precision = np.count_nonzero(prediction._edge[b] & truth._near[a]) / prediction.length
    if not precision + recall:
        return region, 0.0
    return region, 2 * precision * recall / (precision + recall)
