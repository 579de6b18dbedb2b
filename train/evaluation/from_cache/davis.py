"""Stored predictions scored annotator by annotator, as Ref-DAVIS17 is: replayed and merged."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from cache_schema.reader import Video
from train.evaluation.from_cache.contents import ReplayTask
from train.evaluation.pngs.files import map_name, write_png
from train.evaluation.pngs.png import encode_labels
from train.evaluation.protocols.davis import (
    ANNOTATORS,
    Result,
    SequenceTally,
    SequenceTruth,
    mean_of_rounds,
    merge,
    metrics,
    place,
)
from train.records import AnnotatedVideo, ExpressionRef
from train.replay import probabilities


def score_davis(task: ReplayTask) -> list[dict]:
    """Annotator by annotator, as Ref-DAVIS17 is scored. The only control is shuffled text.

    Returns:
        The content of metrics.json for each sigma; empty if there is no ground truth.
    """
    rounds: list[list[Result]] = [[] for _ in range(task.num_rounds)]
    for video, expressions, kept in task:
        results = score_sequence(
            video,
            expressions,
            kept,
            has_truth=video.num_objects > 0,
            masks=task.masks,
            device=task.device,
        )
        for total, result in zip(rounds, results, strict=bool(results)):
            total.append(result)
    if not rounds[0]:
        return []
    contents = []
    for results, shuffled in task.by_sigma(rounds):
        content = metrics(results)
        if shuffled:
            controls = [metrics(of_round) for of_round in shuffled]
            content["controls"] = {"shuffled": mean_of_rounds(controls)}
        contents.append(content)
    return contents


def score_sequence(
    video: Video,
    expressions: Sequence[ExpressionRef],
    rounds: Sequence[Sequence[np.ndarray]],
    *,
    has_truth: bool,
    masks: Path | None,
    device: torch.device | str,
) -> list[Result]:
    """Replay and score all annotators of one sequence, frame by frame.

    Args:
        rounds: for each round the kept mask embeddings (N, C) of each expression; the first round
            is the head's own, the others have shuffled texts.
        has_truth: without it nothing is scored.
        masks: folder for the maps of the first round; None writes none.

    Returns:
        One result a round; nothing without ground truth.
    """
    size = (video.geometry.height, video.geometry.width)
    record = AnnotatedVideo(video.id, video.frame_names, list(expressions), video.objects(), size)
    truth = SequenceTruth(record.objects, size=size, where=video.id) if has_truth else None
    tallies = [
        [SequenceTally(truth.num_objects, where=video.id) for _ in range(ANNOTATORS)]
        for _ in rounds
        if truth is not None
    ]
    frames = zip(
        *(object_maps(video, expressions, kept, device=device) for kept in rounds), strict=True
    )
    for t, of_rounds in enumerate(frames):  # rounds of annotators of (H, W)
        if masks is not None:
            for annotator, ids in enumerate(of_rounds[0]):
                name = map_name(annotator, video.id, video.frame_names[t])
                write_png(masks / name, encode_labels(ids))
        if truth is not None:
            true = truth.frame(t)
            for of_round, maps in zip(tallies, of_rounds, strict=True):
                for tally, ids in zip(of_round, maps, strict=True):
                    tally.add(true, ids)
    return [
        Result(record, [tally.scores() for tally in of_round], [[] for _ in of_round])
        for of_round in tallies
    ]


def object_maps(
    video: Video,
    expressions: Sequence[ExpressionRef],
    kept: Sequence[np.ndarray],
    *,
    device: torch.device | str,
) -> Iterator[list[np.ndarray]]:
    """For each frame and annotator a map of object ids, (H, W) uint8.

    Args:
        kept: mask embeddings (N, C) of each expression's kept queries.
    """
    places = [place(expression) for expression in expressions]
    # Objects in ascending order, whatever that of the expressions: the first of equals wins.
    of_annotators = [
        sorted((number, i) for i, (number, a) in enumerate(places) if a == annotator)
        for annotator in range(ANNOTATORS)
    ]
    size = (video.geometry.height, video.geometry.width)
    for found in probabilities(video, kept, device=device):
        yield [
            merge(found[[i for _, i in objects]], [number for number, _ in objects])
            if objects
            else np.zeros(size, np.uint8)
            for objects in of_annotators
        ]
