"""The MeViS protocol: what is true of an expression, and how the scores of many are averaged.

Ding et al., "MeViS: A Large-scale Benchmark for Video Segmentation with Motion Expressions",
ICCV 2023. J and F are averaged over all frames of an expression, then over the expressions. The
truth of an expression is the union of its annotated objects' masks; one that means nothing in
the video has an empty truth, which only an empty prediction matches. Ref-YouTube-VOS scores in the
same way, with one object an expression.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cache_schema.host.cli import InputError
from cache_schema.records import RLE
from train.evaluation import jf
from train.evaluation.jf import Outline
from train.records import ExpressionRef
from train.run_lengths import decode

TAGS = ("static", "reversible", "irreversible")  # what an expression of the demo needs


@dataclass(frozen=True)
class Score:
    """J and F of one expression, from 0 to 1.

    Attributes:
        target: whether it means anything in its video.
        found: whether anything was predicted in any frame.
        complete: whether there was a prediction, if an empty one, for every frame.
    """

    region: float
    boundary: float
    target: bool = True
    found: bool = True
    complete: bool = True

    @property
    def mean(self) -> float:
        """J&F."""
        return (self.region + self.boundary) / 2


class Tally:
    """Averages J and F over the frames of several expressions, one frame at a time.

    Args:
        targets: for each expression whether it means anything in the video.
    """

    def __init__(self, targets: Sequence[bool]) -> None:
        self._targets = list(targets)
        self._sums = np.zeros((len(targets), 2))
        self._found = np.zeros(len(targets), bool)
        self._complete = np.ones(len(targets), bool)
        self._frames = 0

    def add(self, truth: Sequence[Outline], prediction: Sequence[Outline | None]) -> None:
        """Count one frame of every expression; a missing prediction scores 0."""
        for e, (true, predicted) in enumerate(zip(truth, prediction, strict=True)):
            if predicted is None:
                self._complete[e] = False
            else:
                self._sums[e] += jf.scores(true, predicted)
                self._found[e] |= predicted.area > 0
        self._frames += 1

    def skip(self) -> None:
        """Count one frame without any prediction."""
        self._complete[:] = False
        self._frames += 1

    def scores(self) -> list[Score]:
        """One score an expression."""
        means = (self._sums / self._frames).tolist()
        flags = zip(self._targets, self._found.tolist(), self._complete.tolist(), strict=True)
        return [Score(*mean, *of_mean) for mean, of_mean in zip(means, flags, strict=True)]


class Truth:
    """The masks that the expressions of one video mean.

    Args:
        objects: RLE masks of every annotation, one a frame; None where it is not to be seen.
        annotation_ids: what each expression means.
        size: (H, W) of the frames.

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
        self._objects, self._size, self._where = objects, size, where
        self._sets = [tuple(sorted(set(ids))) for ids in annotation_ids]

    def outlines(self, t: int) -> list[Outline]:
        """Truth of frame t for every expression; those that mean the same share theirs."""
        distinct = {ids: Outline(mask) for ids, mask in self._masks(t).items()}
        return [distinct[ids] for ids in self._sets]

    def frame(self, t: int) -> np.ndarray:
        """Truth of frame t: (E, H, W) bool."""
        masks = self._masks(t)
        return np.array([masks[ids] for ids in self._sets], bool).reshape(-1, *self._size)

    def _masks(self, t: int) -> dict[tuple[str, ...], np.ndarray]:
        """The union of each set of annotations that some expression means, (H, W) bool."""
        decoded = {
            annotation: decode_object(
                self._objects[annotation][t],
                self._size,
                where=f"video {self._where}: the mask of object {annotation} in frame {t}",
            )
            for annotation in {a for ids in self._sets for a in ids}
        }
        empty = np.zeros(self._size, bool)
        return {
            ids: np.logical_or.reduce([decoded[a] for a in ids] or [empty])
            for ids in set(self._sets)
        }


def decode_object(code: RLE | None, size: tuple[int, int], *, where: str) -> np.ndarray:
    """An object's mask in one frame, (H, W) bool; None is empty.

    Raises:
        InputError: the mask is malformed or of another size.
    """
    if code is None:
        return np.zeros(size, bool)
    if tuple(code["size"]) != size:
        raise InputError(
            f"{where} has the size {code['size']}, the frame {list(size)}; check mask_dict.json"
        )
    try:
        return decode(code)
    except ValueError as error:
        raise InputError(f"{where} cannot be decoded: {error}; extract the video again") from None


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


def accuracies(scores: Iterable[Score]) -> dict[str, float | None]:
    """How often it is seen that an expression means nothing, or something (MeViS v2).

    N-acc: share of the expressions without a target whose prediction is empty in all frames.
    T-acc: share of the others whose prediction is not. None where there are no such expressions.
    What is missing is no empty prediction.
    """
    scores = list(scores)
    nothing = [s.complete and not s.found for s in scores if not s.target]
    something = [s.found for s in scores if s.target]
    return {
        "N-acc": float(np.mean(nothing)) if nothing else None,
        "T-acc": float(np.mean(something)) if something else None,
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


def metrics(
    expressions: Iterable[ExpressionRef],
    scores: Mapping[str, Score],
    controls: Mapping[str, Sequence[Mapping[str, Score]]] | None = None,
) -> dict:
    """The content of metrics.json; every score from 0 to 1.

    Args:
        expressions: those that were not scored, too.
        scores: the head's, by expression ("video/expression").
        controls: for each control the same, one or more rounds; rounds are averaged, and with
            several the standard deviation of J&F over them is added as ``J&F_std``.
    """
    listed = {expression.key: expression for expression in expressions}
    tags = {key: expression.tag for key, expression in listed.items()}
    result = {**summary(scores, tags), **accuracies(scores.values())}
    result["per_expression"] = {
        key: {
            "J": score.region,
            "F": score.boundary,
            "J&F": score.mean,
            "tag": tags[key],
            "text": listed[key].text,
        }
        for key, score in scores.items()
    }
    if controls:
        result["controls"] = {
            name: _mean_of_rounds([summary(round_, tags) for round_ in rounds])
            for name, rounds in controls.items()
        }
    return result


def _mean_of_rounds(rounds: Sequence[dict]) -> dict:
    """Mean over the rounds, tag by tag; each round scores the same expressions."""
    if len(rounds) == 1:
        return rounds[0]
    mean = _mean(rounds)
    mean["per_tag"] = {tag: _mean([r["per_tag"][tag] for r in rounds]) for tag in mean["per_tag"]}
    return mean


def _mean(figures: Sequence[dict]) -> dict:
    made = {key: float(np.mean([f[key] for f in figures])) for key in ("J", "F", "J&F")}
    made["J&F_std"] = float(np.std([f["J&F"] for f in figures]))
    return {**figures[0], **made}
