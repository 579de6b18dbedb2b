"""Stored predictions scored expression by expression, frame by frame, beside the controls."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from cache_schema.reader import Video
from train.evaluation.from_cache.contents import ReplayTask, scored_videos
from train.evaluation.from_cache.controls import SegmenterControls
from train.evaluation.jf import Outline
from train.evaluation.pngs.files import mask_name, write_png
from train.evaluation.pngs.png import encode_mask
from train.evaluation.protocols.expressions import Score, Tally, Truth, metrics
from train.records import ExpressionRef
from train.replay import replay_rounds


def score_expressions(task: ReplayTask, *, with_controls: bool = False) -> list[dict]:
    """Expression by expression, as MeViS and Ref-YouTube-VOS are scored.

    Args:
        with_controls: score the controls that need no head, too.

    Returns:
        The content of metrics.json for each sigma; empty if there is no ground truth.
    """
    rounds: list[dict[str, Score]] = [{} for _ in range(task.num_rounds)]
    of_controls: dict[str, list[dict[str, Score]]] = {}
    with_truth = scored_videos(task.reader, task.videos)
    for video, expressions, kept in task:
        scored = score_video(
            video,
            expressions,
            kept,
            has_truth=video.id in with_truth,
            with_controls=with_controls,
            masks=task.masks,
            device=task.device,
        )
        if scored is None:
            continue
        keys = [expression.key for expression in expressions]
        for total, scores in zip(rounds, scored.rounds, strict=True):
            total.update(zip(keys, scores, strict=True))
        for name, scores in scored.controls.items():
            of_controls.setdefault(name, [{}])[0].update(zip(keys, scores, strict=True))
    if not rounds[0]:
        return []
    listed = [expression for of_video in task.videos.values() for expression in of_video]
    return [
        metrics(listed, scores, ({"shuffled": shuffled} if shuffled else {}) | of_controls)
        for scores, shuffled in task.by_sigma(rounds)
    ]


@dataclass(frozen=True)
class VideoScores:
    """Scores of a video's E expressions: of each round, and of the controls by name."""

    rounds: list[list[Score]]
    controls: dict[str, list[Score]]


def score_video(
    video: Video,
    expressions: Sequence[ExpressionRef],
    rounds: Sequence[Sequence[np.ndarray]],
    *,
    has_truth: bool,
    with_controls: bool = False,
    masks: Path | None = None,
    device: torch.device | str = "cpu",
) -> VideoScores | None:
    """Replay and score the expressions of one video, frame by frame.

    All rounds share the reading of mask features and truth, and memory does not grow with them.

    Args:
        rounds: for each round the kept mask embeddings (N, C) of each expression: those of a head
            at some sigma, or with shuffled texts.
        has_truth: without it nothing is scored.
        with_controls: score the controls of VITA's own masks, too.
        masks: folder for PNG masks of the first round; None writes none.

    Returns:
        The scores; None without ground truth.
    """
    size = (video.geometry.height, video.geometry.width)
    annotation_ids = [e.annotation_ids if has_truth else [] for e in expressions]
    targets = [bool(ids) for ids in annotation_ids]
    truth = Truth(video.objects(), annotation_ids, size=size, where=video.id)
    scored = SegmenterControls(video, targets, device=device) if with_controls else None
    tallies = [Tally(targets) for _ in rounds]
    # One product a round, so that a round's masks are the same to the bit whatever else is scored.
    for t, of_rounds in enumerate(replay_rounds(video, rounds, device=device)):
        true = truth.outlines(t) if has_truth else []
        for number, predicted in enumerate(of_rounds):  # (E, H, W)
            if masks is not None and number == 0:
                for expression, mask in zip(expressions, predicted, strict=True):
                    name = mask_name(video.id, expression.id, video.frame_names[t])
                    write_png(masks / name, encode_mask(mask))
            if not has_truth:
                break
            tallies[number].add(true, [Outline(mask) for mask in predicted])
        if has_truth and scored is not None:
            scored.add(true, truth.frame(t))
    if not has_truth:
        return None
    return VideoScores([tally.scores() for tally in tallies], scored.scores() if scored else {})
