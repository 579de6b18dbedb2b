"""Scores of whole videos and of whole caches at once."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from cache_schema.reader import CacheReader
from train.evaluation.from_cache.contents import list_expressions
from train.evaluation.from_cache.head_scores import collect_metrics, score_videos
from train.evaluation.jf import Outline, scores
from train.heads import Head
from train.records import ExpressionRef


def video_scores(truth: np.ndarray, prediction: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """J and F of every frame.

    Args:
        truth, prediction: (T, H, W), any type; what is not zero is object.

    Returns:
        J, F: (T,) float64.
    """
    found = [scores(Outline(g), Outline(p)) for g, p in zip(truth, prediction, strict=True)]
    region, boundary = np.array(found, dtype=np.float64).reshape(-1, 2).T
    return region, boundary


def score_heads(
    reader: CacheReader,
    heads: Mapping[str, Head],
    *,
    rule: Mapping[str, str],
    sigma: Mapping[str, float],
    device: torch.device | str = "cpu",
    videos: Mapping[str, Sequence[ExpressionRef]] | None = None,
) -> dict[str, dict]:
    """The content of metrics.json of each head, equal to that of evaluating it alone.

    Args, Raises: see `score_videos`.
    """
    videos = list_expressions(reader) if videos is None else videos
    how = {"rule": rule, "sigma": sigma, "device": device}
    scored = (of_heads for _, of_heads in score_videos(reader, heads, videos=videos, **how))
    return collect_metrics(videos, scored)
