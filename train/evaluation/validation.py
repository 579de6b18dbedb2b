"""Validation during training: J and F of one head over a few videos that are always the same."""

import numpy as np
import torch

from cache_schema.host.cli import InputError
from cache_schema.reader import CacheReader
from train.evaluation.cache_scores import list_items, scored_videos
from train.evaluation.mevis import average
from train.evaluation.records import Item
from train.heads import Head
from train.sweeping.scores import score_videos


def validate(
    head: Head,
    reader: CacheReader,
    *,
    num_videos: int,
    sigma: float,
    rule: str,
    device: torch.device | str = "cpu",
) -> dict[str, float | int]:
    """Mean J, F and J&F of a head over the expressions of some videos.

    Neither the head's mode nor any random state is changed.

    Args:
        head: on the device.
        reader: of a cache with ground truth.
        num_videos: see `choose_videos`.
        sigma, rule: how queries are kept; the rule is not "auto", see `pick_rule`.
        device: where the head is.

    Returns:
        ``J``, ``F``, ``J&F`` and ``num_expressions``.

    Raises:
        InputError: the cache has no ground truth, or is of Ref-DAVIS17.
    """
    found = score_videos(
        reader,
        {"": head},
        rule={"": rule},
        sigma={"": sigma},
        device=device,
        videos=choose_videos(reader, num_videos),
    )
    return average(score for _, of_heads in found for score in of_heads[""].values())


def choose_videos(reader: CacheReader, num_videos: int) -> dict[str, list[Item]]:
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
    return {known[i]: list_items(reader, known[i]) for i in places}
