"""Scores of stored predictions over all videos of a cache, by the protocol of its data set."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from cache_schema.cli import InputError
from cache_schema.reader import CacheReader, Video
from train.evaluation import davis_report, report
from train.evaluation.davis import Result
from train.evaluation.davis_scoring import score_sequence
from train.evaluation.mevis import Score
from train.evaluation.records import Item
from train.evaluation.scoring import score_video
from train.predictions import Predictions
from train.replay import keep

DAVIS = "ref_davis"
#: Data sets whose expressions mean one object each; in the others they may mean several or none.
ONE_OBJECT = (DAVIS, "ref_youtube_vos", "refcoco", "refcoco+", "refcocog")


@dataclass(frozen=True)
class Task:
    """What is replayed, and how.

    Attributes:
        videos: the expressions of each video.
        sigma: queries above it are kept; with the rule ``top1`` it does not matter.
        shuffled: for each round the kept mask embeddings (N, C) of every expression when it gets
            the text of another.
        masks: folder for the masks as PNG; None writes none.
    """

    reader: CacheReader
    predictions: Predictions
    videos: Mapping[str, Sequence[Item]]
    sigma: float
    shuffled: Sequence[Mapping[str, np.ndarray]] = ()
    masks: Path | None = None
    device: torch.device | str = "cpu"

    def __iter__(self) -> Iterator[tuple[Video, Sequence[Item], list[list[np.ndarray]]]]:
        """Each video, its E expressions, and for each round their kept mask embeddings."""
        for video_id, items in tqdm(self.videos.items(), desc="masks", unit="video", leave=False):
            groups = [self.predictions.get(video_id, item.expression) for item in items]
            rule = self.predictions.rule
            rounds = [[e[keep(s, rule=rule, sigma=self.sigma)] for s, e in groups]]
            rounds += [[kept[item.key] for item in items] for kept in self.shuffled]
            yield self.reader.video(video_id), items, rounds


def list_expressions(reader: CacheReader) -> dict[str, list[Item]]:
    """The expressions of every video that has any.

    Raises:
        InputError: there are none in the whole cache.
    """
    found = {video_id: list_items(reader, video_id) for video_id in reader.video_ids}
    videos = {video_id: items for video_id, items in found.items() if items}
    if not videos:
        raise InputError(
            f"{reader.path} has no expressions, so there is nothing to predict; extract a data set "
            "that has them"
        )
    return videos


def list_items(reader: CacheReader, video_id: str) -> list[Item]:
    """The expressions of one video."""
    video, items = reader.video(video_id), []
    for expression_id in video.expression_ids:
        e = video.expression(expression_id)
        ids = list(e.object_ids), list(e.annotation_ids)
        items.append(Item(video_id, expression_id, e.text, e.tag, *ids))
    return items


def check_origin(reader: CacheReader, predictions: Predictions) -> None:
    """Refuse predictions of another cache."""
    if predictions.fingerprint != reader.fingerprint_hex:
        raise InputError(
            f"{predictions.path} was predicted from the cache {predictions.fingerprint[:12]}, but "
            f"{reader.path} is {reader.fingerprint_hex[:12]}; give the cache it came from"
        )


def scored_videos(reader: CacheReader, video_ids: Iterable[str]) -> set[str]:
    """Those of some videos for whose expressions there is ground truth.

    Where expressions may mean nothing, as in MeViS, a video without objects is one whose
    expressions all do, if other videos of the cache have objects; elsewhere the truth is missing.
    """
    asked = set(video_ids)
    known = {video_id for video_id in asked if reader.video(video_id).num_objects > 0}
    if known == asked or reader.dataset in ONE_OBJECT:
        return known
    return asked if known or has_truth(reader) else known


def has_truth(reader: CacheReader) -> bool:
    """Whether any video of the cache has objects."""
    return any(reader.video(video_id).num_objects > 0 for video_id in reader.video_ids)


def expression_metrics(
    items: Iterable[Item],
    scores: Mapping[str, Score],
    controls: Mapping[str, Sequence[Mapping[str, Score]]] | None = None,
) -> dict:
    """The content of metrics.json: see `report.metrics`.

    Args:
        items: the expressions, those that were not scored too.
        scores, controls: by expression ("video/expression").
    """
    listed = {item.key: item for item in items}
    return report.metrics(
        scores,
        controls or {},
        tags={key: item.tag for key, item in listed.items()},
        texts={key: item.text for key, item in listed.items()},
    )


def score_expressions(task: Task, *, with_controls: bool) -> dict | None:
    """Expression by expression, as MeViS and Ref-YouTube-VOS are scored.

    Args:
        with_controls: score the controls that need no head, too.

    Returns:
        The content of metrics.json; None if there is no ground truth.
    """
    rounds: list[dict[str, Score]] = [{} for _ in range(1 + len(task.shuffled))]
    controls: dict[str, list[dict[str, Score]]] = {}
    with_truth = scored_videos(task.reader, task.videos)
    for video, items, kept in task:
        found = score_video(
            video,
            items,
            kept,
            codec=task.reader.codec,
            has_truth=video.id in with_truth,
            with_controls=with_controls,
            masks=task.masks,
            device=task.device,
        )
        if found is None:
            continue
        keys = [item.key for item in items]
        for total, scores in zip(rounds, found.rounds, strict=True):
            total.update(zip(keys, scores, strict=True))
        for name, scores in found.controls.items():
            controls.setdefault(name, [{}])[0].update(zip(keys, scores, strict=True))
    own, *shuffled = rounds
    if not own:
        return None
    if shuffled:
        controls = {"shuffled": shuffled, **controls}
    listed = (item for items in task.videos.values() for item in items)
    return expression_metrics(listed, own, controls)


def score_davis(task: Task) -> dict | None:
    """Annotator by annotator, as Ref-DAVIS17 is scored. The only control is shuffled text.

    Returns:
        The content of metrics.json; None if there is no ground truth.
    """
    rounds: list[list[Result]] = [[] for _ in range(1 + len(task.shuffled))]
    for video, items, kept in task:
        results = score_sequence(
            video,
            items,
            kept,
            codec=task.reader.codec,
            has_truth=video.num_objects > 0,
            masks=task.masks,
            device=task.device,
        )
        for total, result in zip(rounds, results, strict=bool(results)):
            total.append(result)
    own, *shuffled = rounds
    if not own:
        return None
    content = davis_report.metrics(own)
    if shuffled:
        controls = [davis_report.metrics(results) for results in shuffled]
        content["controls"] = {"shuffled": davis_report.mean_of_rounds(controls)}
    return content
