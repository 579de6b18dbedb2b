"""Stored predictions on their way to masks: what is replayed of each video, and how."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from cache_schema.reader import CacheReader, Video
from train.predictions import Predictions
from train.progress import progress
from train.records import ExpressionRef
from train.replay import keep

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
