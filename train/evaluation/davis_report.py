"""What an evaluation on Ref-DAVIS17 says: metrics.json and the printed table."""

from collections.abc import Mapping, Sequence

import numpy as np

from train.evaluation.davis import ANNOTATORS, Result, statistics
from train.evaluation.report import NAMES, align

FIGURES = ("J", "J-Recall", "J-Decay", "F", "F-Recall", "F-Decay")
COLUMNS = ("J&F", *FIGURES)


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


def table(content: Mapping) -> str:
    """The table of an evaluation, in percent; the last column is without matching."""
    rows = [["", *COLUMNS, "strict J&F"]]
    named = [*content["annotators"].items(), ("mean", content)]
    for name, figures in [*named, *content.get("controls", {}).items()]:
        strict = content["strict"]["annotators"].get(name) or figures["strict"]
        values = [*(figures[key] for key in COLUMNS), strict["J&F"]]
        rows.append([NAMES.get(name, name), *(f"{100 * value:.1f}" for value in values)])
    rows.append(["expressions", str(content["num_expressions"]), *[""] * len(COLUMNS)])
    return align(rows)
