"""Scores of many heads on one cache, which share all reading; validation during training.

Video queries, sentences, mask features and truth are read once for all heads, and the truth is
prepared once; masks exist for one frame of one head at a time.

    partial = {}
    for video_id, of_heads in score_videos(reader, heads, rule=rule, sigma=sigma, device=device):
        partial[video_id] = of_heads                      # may be stored, see `to_json`
    metrics = collect_metrics(list_expressions(reader), partial.values())
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict

import numpy as np
import torch

from cache_schema.host.cli import InputError
from cache_schema.reader import CacheReader
from train.evaluation.from_cache.contents import list_expressions, list_of_video, scored_videos
from train.evaluation.from_cache.expressions import score_video
from train.evaluation.protocols.expressions import Score, average, metrics
from train.heads import Head
from train.inference import predict_video, read_expression
from train.records import ExpressionRef
from train.replay import keep

#: Of one video: head to expression ("video/expression") to score.
HeadScores = dict[str, dict[str, Score]]


def score_videos(
    reader: CacheReader,
    heads: Mapping[str, Head],
    *,
    rule: Mapping[str, str],
    sigma: Mapping[str, float],
    device: torch.device | str = "cpu",
    videos: Mapping[str, Sequence[ExpressionRef]] | None = None,
) -> Iterator[tuple[str, HeadScores]]:
    """Evaluate all heads, video by video.

    A head that is in training mode is put into eval mode while it predicts.

    Args:
        rule, sigma: of each head, how its queries are kept; see `train.replay.keep`. The rule has
            to be "threshold" or "top1", not "auto": see `pick_rule`.
        device: where the heads are, and where masks are computed.
        videos: the expressions of each video, from `list_expressions`, such as those that an
            interrupted evaluation lacks; all by default.

    Yields:
        The video's id and the scores of all heads; nothing for videos without ground truth.

    Raises:
        InputError: the cache has no ground truth, or is of Ref-DAVIS17, whose protocol scores
            annotators and not expressions.
    """
    if reader.facts.protocol == "davis":
        raise InputError(
            f"{reader.path} holds {reader.dataset}, which is scored annotator by annotator and not "
            "for many heads at once; evaluate each checkpoint with train.evaluate"
        )
    videos = list_expressions(reader) if videos is None else videos
    with_truth = scored_videos(reader, videos)
    if videos and not with_truth:
        raise InputError(
            f"{reader.path} has no ground truth to score heads with; give a split that has masks"
        )
    for video_id, expressions in videos.items():
        if video_id not in with_truth:
            continue
        how = {"rule": rule, "sigma": sigma, "device": device}
        kept = _kept_embeds(reader, heads, video_id, expressions, **how)
        scored = score_video(
            reader.video(video_id), expressions, list(kept.values()), has_truth=True, device=device
        )
        keys = [expression.key for expression in expressions]
        yield (
            video_id,
            {
                name: dict(zip(keys, scores, strict=True))
                for name, scores in zip(kept, scored.rounds, strict=True)
            },
        )


def collect_metrics(
    videos: Mapping[str, Sequence[ExpressionRef]], scores: Iterable[HeadScores]
) -> dict[str, dict]:
    """The content of metrics.json of each head.

    Args:
        videos: from `list_expressions`.
        scores: of each video, from `score_videos`, in any order.
    """
    merged: HeadScores = {}
    for of_video in scores:
        for name, of_head in of_video.items():
            merged.setdefault(name, {}).update(of_head)
    listed = [expression for of_video in videos.values() for expression in of_video]
    return {
        name: metrics(listed, {e.key: of_head[e.key] for e in listed if e.key in of_head})
        for name, of_head in merged.items()
    }


def to_json(scores: HeadScores) -> dict:
    """The scores of one video as JSON types; no figure loses a bit."""
    return {name: {k: asdict(s) for k, s in of_head.items()} for name, of_head in scores.items()}


def from_json(scores: Mapping) -> HeadScores:
    """What `to_json` made."""
    return {name: {k: Score(**s) for k, s in of_head.items()} for name, of_head in scores.items()}


def _kept_embeds(
    reader: CacheReader,
    heads: Mapping[str, Head],
    video_id: str,
    expressions: Sequence[ExpressionRef],
    *,
    rule: Mapping[str, str],
    sigma: Mapping[str, float],
    device: torch.device | str,
) -> dict[str, list[np.ndarray]]:
    """For each head the mask embeddings (N, C) that it keeps for each expression."""
    training = [head for head in heads.values() if head.training]
    for head in training:
        head.eval()
    try:
        texts = [read_expression(reader, expression) for expression in expressions]
        kept: dict[str, list[np.ndarray]] = {name: [] for name in heads}
        for name, _, scores, embeds in predict_video(reader, heads, video_id, texts, device=device):
            kept[name].append(embeds[keep(scores, rule=rule[name], sigma=sigma[name])])
        return kept
    finally:
        for head in training:
            head.train()


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
        reader: of a cache with ground truth.
        num_videos: see `choose_videos`.
        sigma, rule: of each head, how queries are kept; the rule is not "auto", see `pick_rule`.

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
