"""The basis of a low-rank codec: the one that costs the masks least.

Mask logits are products e.F of a mask embedding e and a pixel's features F, so of an error dF only
E|e.dF|^2 = dF^T E[e e^T] dF matters. Plain PCA keeps the directions in which features vary most;
here they are weighted by how much embeddings look at them: PCA of W F, with W the square root of
the metric E[e e^T]. Directions that no embedding looks at cost nothing to leave out.
"""

import numpy as np

from cache_schema.codecs import Basis

#: Added to the metric, as a fraction of its mean eigenvalue. It makes W invertible, and leaves some
#: weight to directions that the embeddings at hand do not use but those of a trained head may.
RIDGE = 1e-3


def fit_basis(mean: np.ndarray, covariance: np.ndarray, metric: np.ndarray, rank: int) -> Basis:
    """The basis of ``rank`` with the smallest E|e.dF|^2.

    Bases of other ranks from the same moments are prefixes of each other. Computed in float64,
    with the sign of every direction fixed, so that equal moments give an equal basis.

    Args:
        mean: of the features, (C,).
        covariance: of the features, (C, C).
        metric: E[e e^T] of mask embeddings, (C, C), not zero; the identity gives plain PCA.
        rank: R, from 1 to C.

    Raises:
        ValueError: a rank out of range, or a metric that is zero.
    """
    channels = len(mean)
    if not 1 <= rank <= channels:
        raise ValueError(f"rank {rank} is not from 1 to {channels}")
    ridge = RIDGE * np.trace(metric) / channels
    if not ridge > 0:
        raise ValueError("the metric is zero")
    weights, axes = np.linalg.eigh(metric + ridge * np.eye(channels))
    roots = np.sqrt(np.maximum(weights, ridge))  # rounding can leave an eigenvalue below the ridge
    root, inverse = (axes * roots) @ axes.T, (axes / roots) @ axes.T  # W and W^-1
    directions = np.linalg.eigh(root @ covariance @ root)[1][:, ::-1]  # V, the strongest first
    largest = np.abs(directions).argmax(axis=0)
    directions = directions * np.sign(directions[largest, np.arange(channels)])
    return Basis(
        mean=mean.astype(np.float32),
        encoder=np.ascontiguousarray((root @ directions)[:, :rank], np.float32),
        decoder=np.ascontiguousarray((directions.T @ inverse)[:rank], np.float32),
    )
