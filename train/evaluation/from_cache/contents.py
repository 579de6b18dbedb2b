"""What there is to evaluate in a cache, by which rule, and stored predictions to be replayed."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from mmengine.config import Config

from cache_schema.host.cli import InputError
from cache_schema.reader import CacheReader, Video
from train.predictions import Predictions
from train.progress import progress
from train.records import ExpressionRef
from train.replay import keep


def list_expressions(reader: CacheReader) -> dict[str, list[ExpressionRef]]:
    """The expressions of every video that has any.

    Raises:
        InputError: there are none in the whole cache.
    """
    listed = {video_id: list_of_video(reader, video_id) for video_id in reader.video_ids}
    videos = {video_id: expressions for video_id, expressions in listed.items() if expressions}
    if not videos:
        raise InputError(
            f"{reader.path} has no expressions, so there is nothing to predict; extract a data set "
            "that has them"
        )
    return videos


def list_of_video(reader: CacheReader, video_id: str) -> list[ExpressionRef]:
    """The expressions of one video."""
    video, listed = reader.video(video_id), []
    for expression_id in video.expression_ids:
        e = video.expression(expression_id, offsets=False)
        ids = list(e.object_ids), list(e.annotation_ids)
        listed.append(ExpressionRef(video_id, expression_id, e.text, e.tag, *ids))
    return listed


def pick_rule(config: Config, reader: CacheReader) -> str:
    """How queries are kept: the config's rule or, with "auto", what fits the data set.

    Raises:
        InputError: "auto", and the cache does not say what its expressions mean.
    """
    if config.evaluation.rule != "auto":
        return config.evaluation.rule
    if reader.facts.one_object is None:
        raise InputError(
            f"{reader.path} does not say whether an expression of {reader.dataset} means exactly "
            "one object, so evaluation.rule='auto' cannot choose: set it to 'top1' for one object, "
            "to 'threshold' for any number"
        )
    return "top1" if reader.facts.one_object else "threshold"


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
    if known == asked or reader.facts.one_object:
        return known
    return asked if known or has_truth(reader) else known


def has_truth(reader: CacheReader) -> bool:
    """Whether any video of the cache has objects."""
    return any(reader.video(video_id).num_objects > 0 for video_id in reader.video_ids)


T = TypeVar("T")


@dataclass(frozen=True)
class ReplayTask:
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
    videos: Mapping[str, Sequence[ExpressionRef]]
    sigmas: Sequence[float]
    at_most: int | None = None
    shuffled: Sequence[Mapping[str, tuple[np.ndarray, np.ndarray]]] = ()
    masks: Path | None = None
    device: torch.device | str = "cpu"

    def __iter__(self) -> Iterator[tuple[Video, Sequence[ExpressionRef], list[list[np.ndarray]]]]:
        """Each video, its E expressions, and for each round their kept mask embeddings.

        The rounds are, sigma by sigma, the head's own and the shuffled ones.
        """
        for video_id, expressions in progress(self.videos.items(), "masks", len(self.videos)):
            video = self.reader.video(video_id)
            sizes = video.video_mask_embeds().shape[-2:]
            told = [self.predictions.get(video_id, e.id, sizes) for e in expressions]
            others = [[of_round[e.key] for e in expressions] for of_round in self.shuffled]
            rounds = [
                [self._kept(scores, embeds, sigma) for scores, embeds in of_round]
                for sigma in self.sigmas
                for of_round in (told, *others)
            ]
            yield video, expressions, rounds

    def _kept(self, scores: np.ndarray, embeds: np.ndarray, sigma: float) -> np.ndarray:
        rule = self.predictions.rule
        return embeds[keep(scores, rule=rule, sigma=sigma, at_most=self.at_most)]

    @property
    def num_rounds(self) -> int:
        """How many there are of each expression."""
        return len(self.sigmas) * (1 + len(self.shuffled))

    def by_sigma(self, rounds: Sequence[T]) -> list[tuple[T, Sequence[T]]]:
        """Results of the rounds: for each sigma the head's own, and the shuffled ones'."""
        step = 1 + len(self.shuffled)
        return [
            (rounds[start], rounds[start + 1 : start + step])
            for start in range(0, len(rounds), step)
        ]
