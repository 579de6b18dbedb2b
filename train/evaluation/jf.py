"""J (region similarity) and F (boundary accuracy) of binary masks, as DAVIS and MeViS score them.

Perazzi et al., "A Benchmark Dataset and Evaluation Methodology for Video Object Segmentation",
CVPR 2016, in the form of the DAVIS 2017 evaluation that MeViS took over.
"""

from functools import lru_cache

import cv2
import numpy as np

BOUNDARY_FRACTION = 0.008  # of the image diagonal


def boundary_radius(height: int, width: int) -> int:
    """Distance in pixels within which two boundary pixels match: ceil(0.008 x diagonal)."""
    return int(np.ceil(BOUNDARY_FRACTION * np.linalg.norm((height, width))))


@lru_cache(maxsize=64)
def _disk(radius: int) -> np.ndarray:
    y, x = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    return (x * x + y * y <= radius * radius).astype(np.uint8)


def boundary_map(mask: np.ndarray) -> np.ndarray:
    """Boundary pixels of a mask: those unlike their right, lower or lower right neighbour.

    A border of the image is no boundary: a full mask has none.

    Args:
        mask: (H, W) bool.

    Returns:
        (H, W) bool.
    """
    boundary = np.zeros_like(mask)
    boundary[:, :-1] |= mask[:, :-1] ^ mask[:, 1:]
    boundary[:-1] |= mask[:-1] ^ mask[1:]
    boundary[:-1, :-1] |= mask[:-1, :-1] ^ mask[1:, 1:]
    return boundary


def frame_scores(truth: np.ndarray, prediction: np.ndarray) -> tuple[float, float]:
    """J and F of one frame.

    Args:
        truth, prediction: (H, W) bool, of one shape.

    Returns:
        J = intersection over union, 1 if both masks are empty.
        F = harmonic mean of the boundaries' precision and recall. Both boundaries empty: 1;
        one of them: 0. So a full mask against an empty one has J = 0 and F = 1.
    """
    height, width = truth.shape
    x, y, w, h = cv2.boundingRect((truth | prediction).view(np.uint8))
    if not w:
        return 1.0, 1.0
    # Boundary pixels lie at most one pixel outside the masks, and only they are counted: the
    # frame outside the masks' common box plus one pixel changes nothing.
    window = np.s_[max(y - 1, 0) : y + h + 1, max(x - 1, 0) : x + w + 1]
    truth, prediction = truth[window], prediction[window]
    overlap = np.count_nonzero(truth & prediction)
    region = float(overlap / (np.count_nonzero(truth) + np.count_nonzero(prediction) - overlap))

    edges = boundary_map(truth), boundary_map(prediction)
    counts = [np.count_nonzero(edge) for edge in edges]
    if not all(counts):
        return region, float(not any(counts))
    disk = _disk(boundary_radius(height, width))
    near = [cv2.dilate(edge.view(np.uint8), disk).view(bool) for edge in edges]
    recall = np.count_nonzero(edges[0] & near[1]) / counts[0]
    precision = np.count_nonzero(edges[1] & near[0]) / counts[1]
    if not precision + recall:
        return region, 0.0
    return region, float(2 * precision * recall / (precision + recall))


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
    truth, prediction = truth.astype(bool), prediction.astype(bool)  # copies: no stride surprises
    scores = [frame_scores(g, p) for g, p in zip(truth, prediction, strict=True)]
    region, boundary = np.array(scores, dtype=np.float64).reshape(-1, 2).T
    return region, boundary
