"""The MeViS protocol: what is true of an expression, and how the scores of many are averaged.

Ding et al., "MeViS: A Large-scale Benchmark for Video Segmentation with Motion Expressions",
ICCV 2023. J and F are averaged over all frames of an expression, then over the expressions. The
truth of an expression is the union of its annotated objects' masks; one that means nothing in
the video has an empty truth, which only an empty prediction matches.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from pycocotools import mask as coco

from cache_schema.cli import InputError
from cache_schema.records import RLE
from train.evaluation import jf

TAGS = ("static", "reversible", "irreversible")  # what an expression of the demo needs


@dataclass(frozen=True)
class Score:
    """J and F of one expression, from 0 to 1."""

    region: float
    boundary: float

    @property
    def mean(self) -> float:
        """J&F."""
        return (self.region + self.boundary) / 2


class Tally:
    """Averages J and F over the frames of several expressions, one frame at a time."""

    def __init__(self, num_expressions: int) -> None:
        self._sums = np.zeros((num_expressions, 2))
        self._frames = 0

    def add(self, truth: np.ndarray, prediction: np.ndarray) -> None:
        """Count one frame of every expression; both arguments are (E, H, W) bool."""
        for total, g, p in zip(self._sums, truth, prediction, strict=True):
            total += jf.frame_scores(g, p)
        self._frames += 1

    def scores(self) -> list[Score]:
        """One score an expression."""
        return [Score(float(j), float(f)) for j, f in self._sums / self._frames]


class Truth:
    """The masks that the expressions of one video mean.

    Args:
        objects: RLE masks of every annotation, one a frame; None where it is not to be seen.
        annotation_ids: what each expression means.
        size: (H, W) of the frames.
        where: the video's name, for error messages.

    Raises:
        InputError: an expression means an annotation that the video does not have.
    """

    def __init__(
        self,
        objects: Mapping[str, list[RLE | None]],
        annotation_ids: Sequence[Sequence[str]],
        *,
        size: tuple[int, int],
        where: str,
    ) -> None:
        missing = sorted({a for ids in annotation_ids for a in ids} - set(objects))
        if missing:
            raise InputError(
                f"video {where}: expressions mean the objects {', '.join(missing[:5])}, but their "
                "masks are not there; check mask_dict.json and extract the video again"
            )
        self._objects, self._annotation_ids = objects, annotation_ids
        self._size, self._where = size, where

    def frame(self, t: int) -> np.ndarray:
        """Truth of frame t: (E, H, W) bool."""
        decoded = {}
        for annotation in {a for ids in self._annotation_ids for a in ids}:
            rle = self._objects[annotation][t]
            if rle is None:
                continue
            if tuple(rle["size"]) != self._size:
                raise InputError(
                    f"video {self._where}: the mask of object {annotation} in frame {t} has the "
                    f"size {rle['size']}, the frame {list(self._size)}; check mask_dict.json"
                )
            decoded[annotation] = coco.decode(rle).view(bool)
        truth = np.zeros((len(self._annotation_ids), *self._size), bool)
        for mask, ids in zip(truth, self._annotation_ids, strict=True):
            for annotation in ids:
                if annotation in decoded:
                    mask |= decoded[annotation]
        return truth


def average(scores: Iterable[Score]) -> dict[str, float | int]:
    """Mean over expressions, under the keys of metrics.json; 0 if there are none."""
    scores = list(scores)
    region, boundary = (
        np.mean([(s.region, s.boundary) for s in scores], axis=0).tolist() if scores else (0.0, 0.0)
    )
    return {
        "J": region,
        "F": boundary,
        "J&F": (region + boundary) / 2,
        "num_expressions": len(scores),
    }


def summary(scores: Mapping[str, Score], tags: Mapping[str, str]) -> dict:
    """The four figures of all expressions and, under ``per_tag``, of those of each tag.

    Args:
        scores: by expression ("video/expression").
        tags: the tag of each; those without a tag ('') count only in the whole.
    """
    present = {tags[key] for key in scores} - {""}
    ordered = [t for t in TAGS if t in present] + sorted(present - set(TAGS))
    per_tag = {t: average(s for key, s in scores.items() if tags[key] == t) for t in ordered}
    return {**average(scores.values()), "per_tag": per_tag}
