"""J (region similarity) and F (boundary accuracy) of binary masks, as DAVIS and MeViS score them.

Perazzi et al., "A Benchmark Dataset and Evaluation Methodology for Video Object Segmentation",
CVPR 2016, in the form of the DAVIS 2017 evaluation that MeViS took over.

Both count pixels and nothing else, so masks have one bit a pixel (`train.evaluation.bits`): the
dilation with a disk that F needs is an OR of shifted words. An `Outline` is what one mask brings
to any comparison; a truth that is compared with many predictions is prepared once.
"""

from functools import cached_property, lru_cache
from math import isqrt

import numpy as np

from train.evaluation import bits

BOUNDARY_FRACTION = 0.008  # of the image diagonal


@lru_cache(maxsize=64)
def boundary_radius(height: int, width: int) -> int:
    """Distance in pixels within which two boundary pixels match: ceil(0.008 x diagonal)."""
    return int(np.ceil(BOUNDARY_FRACTION * np.linalg.norm((height, width))))


def row_words(height: int, width: int) -> int:
    """Words a row of a packed mask: dilated rows must not reach their neighbours."""
    return (width + boundary_radius(height, width) + 63) // 64


class Outline:
    """A mask as J and F need it: its pixels, its boundary and what is near the boundary.

    Args:
        pixels: (H, `row_words`) uint64, packed.
        size: (H, W).
    """

    def __init__(self, pixels: np.ndarray, size: tuple[int, int]) -> None:
        self.size = size
        self._radius = boundary_radius(*size)
        # Only what is in reach of the mask is kept: its boundary lies up to one row above it.
        reach = self._radius + 1
        self._rows = _span(pixels.any(1), reach)
        self._words = _span(pixels.any(0), (2 * reach + 63) // 64)
        self._pixels = np.ascontiguousarray(pixels[self._rows, self._words])
        self.area = bits.count(self._pixels)

    @classmethod
    def of(cls, mask: np.ndarray) -> "Outline":
        """Of a mask (H, W) bool."""
        size = (mask.shape[0], mask.shape[1])
        return cls(bits.pack(mask, row_words(*size)), size)

    @cached_property
    def _edge(self) -> np.ndarray:
        """Boundary pixels: those unlike their right, lower or lower right neighbour.

        A border of the image is no boundary: a full mask has none.
        """
        pixels = self._pixels
        right = bits.shifted(pixels, -1)  # each pixel's right neighbour
        words = pixels.shape[1]  # the last column of all and the last that is kept have none
        inner = bits.first(min(self.size[1] - 64 * self._words.start, 64 * words) - 1, words)
        edge = (pixels ^ right) & inner
        edge[:-1] |= pixels[:-1] ^ pixels[1:]
        edge[:-1] |= (pixels[:-1] ^ right[1:]) & inner
        return edge

    @cached_property
    def length(self) -> int:
        """Number of boundary pixels."""
        return bits.count(self._edge)

    @cached_property
    def _near(self) -> np.ndarray:
        """All within the radius of a boundary pixel: the boundary dilated with a disk."""
        near = np.zeros_like(self._edge)
        wide, half = self._edge, 0
        # A disk's rows grow towards its middle; those that would leave the mask's rows are cut.
        for dy in range(min(self._radius, len(near) - 1), -1, -1):
            wider = isqrt(self._radius**2 - dy * dy)
            wide, half = _widened(wide, half, wider), wider
            near[dy:] |= wide[: len(wide) - dy]
            near[: len(near) - dy] |= wide[dy:]
        # What the shifts took over a row's start came back behind the end of the one above.
        return near & bits.first(64 * near.shape[1] - self._radius, near.shape[1])

    def _shared(self, other: "Outline") -> tuple[tuple[slice, slice], tuple[slice, slice]]:
        """What both have kept, as rows and words of each."""
        rows, words = _common(self._rows, other._rows), _common(self._words, other._words)
        return (rows[0], words[0]), (rows[1], words[1])


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
    a, b = truth._shared(prediction)
    overlap = bits.count(truth._pixels[a] & prediction._pixels[b])
    union = truth.area + prediction.area - overlap
    region = overlap / union if union else 1.0
    if not (truth.length and prediction.length):
        return region, float(truth.length == prediction.length)
    recall = bits.count(truth._edge[a] & prediction._near[b]) / truth.length
    precision = bits.count(prediction._edge[b] & truth._near[a]) / prediction.length
    if not precision + recall:
        return region, 0.0
    return region, 2 * precision * recall / (precision + recall)


def frame_scores(truth: np.ndarray, prediction: np.ndarray) -> tuple[float, float]:
    """J and F of one frame, see `scores`; both masks are (H, W) bool."""
    return scores(Outline.of(truth), Outline.of(prediction))


def video_scores(truth: np.ndarray, prediction: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """J and F of every frame.

    Args:
        truth, prediction: (T, H, W), any type; what is not zero is object.

    Returns:
        J, F: (T,) float64.

    Raises:
        ValueError: the shapes differ.
    """
    if truth.shape != prediction.shape or truth.ndim != 3:
        raise ValueError(f"masks of shapes {truth.shape} and {prediction.shape}, not one (T, H, W)")
    frames = zip(truth.astype(bool), prediction.astype(bool), strict=True)
    found = [frame_scores(g, p) for g, p in frames]
    region, boundary = np.array(found, dtype=np.float64).reshape(-1, 2).T
    return region, boundary


def _widened(rows: np.ndarray, half: int, wider: int) -> np.ndarray:
    """Rows dilated by ``half`` to both sides, dilated by ``wider`` instead."""
    while half < wider:
        by = min(wider - half, 2 * half + 1, 63)  # further on, there would be gaps
        rows = rows | bits.shifted(rows, by) | bits.shifted(rows, -by)
        half += by
    return rows


def _span(present: np.ndarray, reach: int) -> slice:
    """From the first that is present to the last, and as far as ``reach`` around them."""
    found = np.flatnonzero(present)
    if not len(found):
        return slice(0, 0)
    return slice(max(int(found[0]) - reach, 0), min(int(found[-1]) + 1 + reach, len(present)))


def _common(a: slice, b: slice) -> tuple[slice, slice]:
    """What two spans share, counted from the start of each."""
    start, stop = max(a.start, b.start), min(a.stop, b.stop)
    stop = max(start, stop)
    return slice(start - a.start, stop - a.start), slice(start - b.start, stop - b.start)
