"""How far each video query is from each target, by the segmenter's own tracks.

A motion query starts as a video query that has an object already, so a target can be matched with
the query that holds it from the first step on. By masks alone the first matches are arbitrary, for
the mask head is random, and they last: video queries know of each other, so a mask head can learn
to draw any neighbour's mask just as well. Then class targets say little about the query itself.
"""

import numpy as np
from scipy.special import softmax

from train.data.targets import Boxes

#: What a query costs for being one that the segmenter doubts, so that of two with the same track
#: the confident one is taken; in fractions of the image like the distances.
DOUBT = 0.2


def objectness(video_logits: np.ndarray) -> np.ndarray:
    """Probability (N_v,) of being any object at all, from logits (N_v, K+1), no-object last.

    Unlike S_v it stays high where the segmenter is torn between two classes.
    """
    return 1.0 - softmax(video_logits, axis=-1)[:, -1]


def track_distance(tracks: np.ndarray, scores: np.ndarray, targets: Boxes) -> np.ndarray:
    """Distance of boxes, mean over the frames in which a target is visible.

    Args:
        tracks: (N_v, T, 6), centre x, y, width and height of each query's mask first, as
            fractions of the image.
        scores: `objectness` of each query, (N_v,).
        targets: M boxes a frame, each visible somewhere.

    Returns:
        (N_v, M) float32: L1 distance of the four numbers, plus `DOUBT` times the probability of
        no object.
    """
    # (N_v, 1, T, 4) - (M, T, 4) -> (N_v, M, T)
    apart = np.abs(tracks[:, None, :, :4].astype(np.float32) - targets.boxes).sum(axis=-1)
    visible = targets.visible  # (M, T)
    mean = (apart * visible).sum(axis=-1) / np.maximum(visible.sum(axis=-1), 1)  # (N_v, M)
    return (mean + DOUBT * (1.0 - scores)[:, None]).astype(np.float32)
