"""Validation during training: J and F of heads over a few videos that are always the same."""

from collections.abc import Mapping

import numpy as np
import torch

from cache_schema.host.cli import InputError
from cache_schema.reader import CacheReader
from train.evaluation.from_cache.contents import list_of_video, scored_videos
from train.evaluation.from_cache.head_scores import score_videos
from train.evaluation.protocols.expressions import average
from train.heads import Head
from train.records import ExpressionRef


def validate(
    heads: Mapping[str, Head],
    reader: CacheReader,
    *,
    num_videos: int,
    sigma: Mapping[str, float],
    rule: Mapping[str, str],
    device: torch.device | str = "cpu",
) -> dict[str, dict[str, float | int]]:
    """Mean J, F and J&F of each head over the expressions of some videos.

    Neither a head's mode nor any random state is changed.

    Args:
        heads: by name, on the device.
        reader: of a cache with ground truth.
        num_videos: see `choose_videos`.
        sigma, rule: of each head, how queries are kept; the rule is not "auto", see `pick_rule`.
        device: where the heads are.

    Returns:
        ``J``, ``F``, ``J&F`` and ``num_expressions`` of each.

    Raises:
        InputError: the cache has no ground truth, or is of Ref-DAVIS17.
    """
    videos = choose_videos(reader, num_videos)
    scored = score_videos(reader, heads, rule=rule, sigma=sigma, device=device, videos=videos)
    of_videos = [of_heads for _, of_heads in scored]
    return {
        name: average(score for of_heads in of_videos for score in of_heads[name].values())
        for name in heads
    }


def choose_videos(reader: CacheReader, num_videos: int) -> dict[str, list[ExpressionRef]]:
    """The expressions of some videos, evenly spaced among those that can be scored.

    Args:
        num_videos: how many; all if the cache has fewer.

    Raises:
        InputError: there are none.
    """
    with_text = [video_id for video_id in reader.video_ids if reader.video(video_id).expression_ids]
    with_truth = scored_videos(reader, with_text)
    known = [video_id for video_id in with_text if video_id in with_truth]
    if not known:
        raise InputError(
            f"{reader.path} has no expressions with ground truth to validate with; give a split "
            "that has both"
        )
    places = np.linspace(0, len(known) - 1, min(num_videos, len(known))).round().astype(int)
    return {known[i]: list_of_video(reader, known[i]) for i in places}
