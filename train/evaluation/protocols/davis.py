"""The Ref-DAVIS17 protocol: one map of all objects for each annotator, scored as DAVIS scores them.

Khoreva et al., "Video Object Segmentation with Language Referring Expressions", ACCV 2018. Every
object has a sentence by each of four annotators. The masks of one annotator's sentences are merged
into one map of object ids and scored by the benchmark's *unsupervised* task (Caelles et al., "The
2019 DAVIS Challenge on VOS: Unsupervised Multi-Object Segmentation"): predicted and true objects
are matched so that J&F is highest, whatever their ids are. That forgives a head which takes one
object for the other, so the strict score, without matching, stands beside it. Void pixels count for
nobody.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cache_schema.host.cli import InputError
from cache_schema.records import RLE
from train.evaluation import jf
from train.evaluation.jf import Outline
from train.evaluation.protocols.expressions import decode_object
from train.records import AnnotatedVideo, ExpressionRef

ANNOTATORS = 4
VOID = 255
MAX_OBJECTS = 20  # more, and the benchmark's evaluator stops
SURE, BACKGROUND = 0.5, 0.1

FIGURES = ("J", "J-Recall", "J-Decay", "F", "F-Recall", "F-Decay")
COLUMNS = ("J&F", *FIGURES)


def merge(probabilities: np.ndarray, ids: Sequence[int]) -> np.ndarray:
    """One annotator's map of objects, as ReferFormer and its successors merge it.

    A probability below 0.5 counts as 0, the background as 0.1; the highest takes the pixel, the
    first of equals.

    Args:
        probabilities: (K, H, W) float of each object.
        ids: of the K objects, 1 to 254.

    Returns:
        (H, W) uint8, 0 is background.
    """
    sure = np.where(probabilities < SURE, 0, probabilities)
    names = np.array(ids, np.uint8)[sure.argmax(0)]
    return np.where(sure.max(0) > BACKGROUND, names, np.uint8(0))


class SequenceTruth:
    """The true objects of a sequence: those up to the highest id in the first frame.

    Args:
        objects: object id to one RLE or None a frame; "255" is void.
        size: (H, W).

    Raises:
        InputError: an id is no number, or the first frame shows no object.
    """

    def __init__(
        self, objects: Mapping[str, list[RLE | None]], *, size: tuple[int, int], where: str
    ) -> None:
        self._objects, self._size, self._where = dict(objects), size, where
        odd = [name for name in objects if not name.isdecimal() or not 0 < int(name) <= VOID]
        if odd:
            raise InputError(
                f"video {where}: object {odd[0]!r} is no id of DAVIS (1 to 254, and 255 for void)"
            )
        shown = [int(name) for name in objects if self._mask(name, 0).any()]
        self.num_objects = max((number for number in shown if number != VOID), default=0)
        if not self.num_objects:
            raise InputError(f"video {where}: the first frame shows no object, so none is scored")

    def frame(self, t: int) -> "TruthFrame":
        """Truth of frame t."""
        void = self._mask(str(VOID), t)
        names = map(str, range(1, self.num_objects + 1))
        masks = [self._mask(name, t) & ~void for name in names]
        return TruthFrame(void, [Outline(mask) for mask in masks])

    def _mask(self, name: str, t: int) -> np.ndarray:
        where = f"video {self._where}: the mask of object {name} in frame {t}"
        rles = self._objects.get(name)
        return decode_object(rles[t] if rles else None, self._size, where=where)


@dataclass(frozen=True)
class TruthFrame:
    """One frame: void pixels (H, W) bool and the O true objects without them."""

    void: np.ndarray
    objects: list[Outline]

    def outline(self, mask: np.ndarray) -> Outline:
        """A predicted mask (H, W) bool, without the void pixels."""
        return Outline(mask & ~self.void)


def place(expression: ExpressionRef) -> tuple[int, int]:
    """The object that an expression means, 1 to 254, and its annotator, 0 to 3.

    Raises:
        InputError: the expression's id is no number, or it does not mean exactly one object.
    """
    named = [name for name in expression.object_ids if name.isdecimal() and 0 < int(name) < VOID]
    if not expression.id.isdecimal() or len(named) != 1 or len(expression.object_ids) != 1:
        raise InputError(
            f"expression {expression.id!r} of video {expression.video} means the objects "
            f"{expression.object_ids}; in Ref-DAVIS17 expression 4k + a is annotator a's of the "
            "one object k"
        )
    return int(named[0]), int(expression.id) % ANNOTATORS


@dataclass(frozen=True)
class SequenceScores:
    """J and F of O objects in T frames.

    Attributes:
        matched: (2, O, T), each true object with the predicted one that the benchmark matches with
            it; in the order of the predicted ids, as the benchmark lists them.
        strict: (2, O, T), each true object with the predicted one of the same id.
    """

    matched: np.ndarray
    strict: np.ndarray


@dataclass(frozen=True)
class Result:
    """One sequence: for each annotator its scores, and the frames without a map."""

    video: AnnotatedVideo
    scores: list[SequenceScores]
    missing: list[list[str]]

    def expressions(self) -> dict[str, tuple[int, int, str]]:
        """Key of metrics.json to the row of the true object, the annotator and the text.

        Where the sentences are not at hand, the expressions are still numbered as if they were.
        """
        num_objects = self.scores[0].strict.shape[1]
        if not self.video.expressions:
            return {
                f"{self.video.id}/{o * ANNOTATORS + a}": (o, a, "")
                for o in range(num_objects)
                for a in range(ANNOTATORS)
            }
        placed = {e.key: (*place(e), e.text) for e in self.video.expressions}
        return {
            key: (number - 1, annotator, text)
            for key, (number, annotator, text) in placed.items()
            if number <= num_objects  # an object that comes later is not scored
        }


class SequenceTally:
    """Compares the predicted maps of a sequence with its truth, frame by frame.

    Args:
        num_objects: O, of the truth.
    """

    def __init__(self, num_objects: int, *, where: str) -> None:
        self._num_objects, self._where = num_objects, where
        self._frames: list[list[np.ndarray]] = []

    def add(self, truth: TruthFrame, ids: np.ndarray | None) -> None:
        """Count a frame; its map (H, W) uint8 is None if it is missing, and all then score 0.

        Raises:
            InputError: the map holds more objects than the benchmark takes.
        """
        if ids is None:
            self._frames.append([np.zeros((self._num_objects, 2))])
            return
        highest = int(ids.max())
        if highest > MAX_OBJECTS:
            raise InputError(
                f"{self._where}: a map holds the object {highest}; the benchmark takes objects 1 "
                f"to {MAX_OBJECTS}"
            )
        # The first is what an object that is not to be seen scores; predictions follow.
        masks = [ids == number for number in range(highest + 1)]
        masks[0] = np.zeros_like(masks[0])
        self._frames.append(
            [
                np.array([jf.scores(true, truth.outline(mask)) for true in truth.objects])
                for mask in masks
            ]
        )

    def scores(self) -> SequenceScores:
        """After the last frame."""
        rows = max(self._num_objects, max(len(frame) - 1 for frame in self._frames))
        table = np.array(
            [[frame[k] if k < len(frame) else frame[0] for k in range(1, rows + 1)]
             for frame in self._frames]
        )  # fmt: skip
        table = table.transpose(3, 1, 2, 0)  # T, predicted, true, 2 -> 2, predicted, true, T
        from scipy.optimize import linear_sum_assignment  # which other protocols need not load

        matched = linear_sum_assignment(-table.mean(axis=(0, 3)))
        same = np.arange(self._num_objects)
        return SequenceScores(table[:, *matched], table[:, same, same])


def statistics(values: np.ndarray) -> tuple[float, float, float]:
    """Mean, recall (share above 0.5) and decay (first quarter less last) of J or F over T frames.

    Quarters share their border frames, as in the benchmark.
    """
    edges = np.round(np.linspace(1, len(values), 5) + 1e-10).astype(int) - 1
    first, last = values[: edges[1] + 1], values[edges[3] :]
    return float(values.mean()), float((values > 0.5).mean()), float(first.mean() - last.mean())


def metrics(results: Sequence[Result]) -> dict:
    """The content of metrics.json.

    Returns:
        ``J``, ``F``, ``J&F`` with recall and decay: means over the objects of all sequences, then
        over the annotators. The same of each of ``annotators`` with ``per_object``, and
        ``per_video``. Without matching: ``strict`` and ``per_expression``.
    """
    matched, strict = (
        [
            _figures([getattr(result.scores[a], which) for result in results])
            for a in range(ANNOTATORS)
        ]
        for which in ("matched", "strict")
    )
    for annotator, figures in enumerate(matched):
        figures["per_object"] = {
            f"{result.video.id}_{o + 1}": _pair(values)
            for result in results
            for o, values in enumerate(result.scores[annotator].matched.swapaxes(0, 1))
        }
    return {
        **_mean(matched),
        "num_expressions": sum(len(result.expressions()) for result in results),
        "annotators": {f"anno_{a}": figures for a, figures in enumerate(matched)},
        "strict": {
            **_mean(strict),
            "annotators": {f"anno_{a}": figures for a, figures in enumerate(strict)},
        },
        "per_video": {
            result.video.id: _pair(np.stack([s.matched for s in result.scores], axis=1))
            for result in results
        },
        "per_expression": {
            key: {**_pair(result.scores[annotator].strict[:, o]), "text": text}
            for result in results
            for key, (o, annotator, text) in result.expressions().items()
        },
    }


def _figures(sequences: Sequence[np.ndarray]) -> dict:
    """Means over the objects of all sequences, each (2, O, T)."""
    rows = [
        statistics(region) + statistics(boundary)
        for values in sequences
        for region, boundary in values.swapaxes(0, 1)
    ]
    figures = dict(zip(FIGURES, np.mean(rows, axis=0).tolist(), strict=True))
    return {"J&F": (figures["J"] + figures["F"]) / 2, **figures}


def _mean(of_annotators: Sequence[Mapping]) -> dict[str, float]:
    return {key: float(np.mean([figures[key] for figures in of_annotators])) for key in COLUMNS}


def mean_of_rounds(rounds: Sequence[Mapping]) -> dict:
    """Means over several rounds, with the standard deviation of J&F as ``J&F_std``."""
    strict = {key: float(np.mean([r["strict"][key] for r in rounds])) for key in COLUMNS}
    return {
        **_mean(rounds),
        "J&F_std": float(np.std([r["J&F"] for r in rounds])),
        "num_expressions": rounds[0]["num_expressions"],
        "strict": strict,
    }


def _pair(values: np.ndarray) -> dict[str, float]:
    """Means of (2, ...)."""
    region, boundary = values.reshape(2, -1).mean(1).tolist()
    return {"J": region, "F": boundary, "J&F": (region + boundary) / 2}
