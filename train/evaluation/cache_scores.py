"""Scores of stored predictions over all videos of a cache, by the protocol of its data set."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from mmengine.config import Config
from tqdm import tqdm

from cache_schema.host.cli import InputError
from cache_schema.reader import CacheReader, Video
from train.evaluation import davis_report, report
from train.evaluation.davis import Result
from train.evaluation.davis_scoring import score_sequence
from train.evaluation.mevis import Score
from train.evaluation.records import Item
from train.evaluation.scoring import score_video
from train.predictions import Predictions
from train.replay import keep

Found = TypeVar("Found")

DAVIS = "ref_davis"
#: Data sets whose expressions mean one object each; in the others they may mean several or none.
ONE_OBJECT = (DAVIS, "ref_youtube_vos", "refcoco", "refcoco+", "refcocog")


@dataclass(frozen=True)
class Task:
    """What is replayed, and how.

    Attributes:
        videos: the expressions of each video.
        sigmas: each is one way to keep queries, those above it; with the rule ``top1`` they do
            not matter.
        at_most: how many queries are kept; see `train.replay.keep`.
        shuffled: for each round the scores (N,) and mask embeddings (N, C) of every expression when
            it gets the text of another, as far as they are above the lowest sigma.
        masks: folder for the masks as PNG, of the first sigma; None writes none.
    """

    reader: CacheReader
    predictions: Predictions
    videos: Mapping[str, Sequence[Item]]
    sigmas: Sequence[float]
    at_most: int | None = None
    shuffled: Sequence[Mapping[str, tuple[np.ndarray, np.ndarray]]] = ()
    masks: Path | None = None
    device: torch.device | str = "cpu"

    def __iter__(self) -> Iterator[tuple[Video, Sequence[Item], list[list[np.ndarray]]]]:
        """Each video, its E expressions, and for each round their kept mask embeddings.

        The rounds are, sigma by sigma, the head's own and the shuffled ones.
        """
        for video_id, items in tqdm(self.videos.items(), desc="masks", unit="video", leave=False):
            video = self.reader.video(video_id)
            sizes = video.video_mask_embeds().shape[-2:]
            own = [self.predictions.get(video_id, item.expression, sizes) for item in items]
            groups = [own, *([found[item.key] for item in items] for found in self.shuffled)]
            rounds = [
                [self._kept(*said, sigma) for said in group]
                for sigma in self.sigmas
                for group in groups
            ]
            yield video, items, rounds

    def _kept(self, scores: np.ndarray, embeds: np.ndarray, sigma: float) -> np.ndarray:
        rule = self.predictions.rule
        return embeds[keep(scores, rule=rule, sigma=sigma, at_most=self.at_most)]

    @property
    def num_rounds(self) -> int:
        """How many there are of each expression."""
        return len(self.sigmas) * (1 + len(self.shuffled))

    def by_sigma(self, rounds: Sequence[Found]) -> list[tuple[Found, Sequence[Found]]]:
        """What was found in the rounds: for each sigma the head's own, and the shuffled ones'."""
        step = 1 + len(self.shuffled)
        return [
            (rounds[start], rounds[start + 1 : start + step])
            for start in range(0, len(rounds), step)
        ]


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


def pick_rule(config: Config, dataset: str) -> str:
    """How queries are kept: the config's rule or, with "auto", that of the data set."""
    if config.evaluation.rule != "auto":
        return config.evaluation.rule
    return "top1" if dataset in ONE_OBJECT else "threshold"


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


def score_expressions(task: Task, *, with_controls: bool = False) -> list[dict]:
    """Expression by expression, as MeViS and Ref-YouTube-VOS are scored.

    Args:
        with_controls: score the controls that need no head, too.

    Returns:
        The content of metrics.json for each sigma; empty if there is no ground truth.
    """
    rounds: list[dict[str, Score]] = [{} for _ in range(task.num_rounds)]
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
    if not rounds[0]:
        return []
    listed = [item for items in task.videos.values() for item in items]
    return [
        expression_metrics(listed, own, ({"shuffled": shuffled} if shuffled else {}) | controls)
        for own, shuffled in task.by_sigma(rounds)
    ]


def score_davis(task: Task) -> list[dict]:
    """Annotator by annotator, as Ref-DAVIS17 is scored. The only control is shuffled text.

    Returns:
        The content of metrics.json for each sigma; empty if there is no ground truth.
    """
    rounds: list[list[Result]] = [[] for _ in range(task.num_rounds)]
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
    if not rounds[0]:
        return []
    contents = []
    for own, shuffled in task.by_sigma(rounds):
        content = davis_report.metrics(own)
        if shuffled:
            controls = [davis_report.metrics(results) for results in shuffled]
            content["controls"] = {"shuffled": davis_report.mean_of_rounds(controls)}
        contents.append(content)
    return contents
