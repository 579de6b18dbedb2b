"""How the sizes of a cache's videos and sentences are distributed, as a table and a picture."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cache_schema.host import files
from cache_schema.host.cli import InputError
from cache_schema.reader import CacheReader

BARS = 40  # of a histogram, at most
LEAST = 5  # bars that there is room for


def collect(reader: CacheReader) -> dict[str, list[int]]:
    """Every number behind the statistics, by the name of what was counted.

    Words are those between spaces, motion cues the sub-words that are marked so; objects of an
    expression are those that it means.

    Raises:
        InputError: a shard cannot be read.
    """
    kinds = {
        "video": ("frames", "objects", "expressions"),
        "expression": ("objects", "words", "motion cues"),
    }
    counts: dict[str, list[int]] = {f"{a} per {b}": [] for b, names in kinds.items() for a in names}
    for video_id in reader.video_ids:
        video = reader.video(video_id)
        counts["frames per video"].append(video.num_frames)
        counts["objects per video"].append(video.num_objects)
        counts["expressions per video"].append(len(video.expression_ids))
        for expression in map(video.expression, video.expression_ids):
            counts["objects per expression"].append(len(expression.annotation_ids))
            counts["words per expression"].append(len(expression.text.split()))
            counts["motion cues per expression"].append(int(expression.motion.sum()))
    return counts


def summary(counts: Mapping[str, list[int]]) -> dict[str, dict[str, Any]]:
    """What to say of each list of numbers, as JSON types.

    Returns:
        By name: ``count``, ``total``, ``min``, ``median``, ``mean``, ``max`` (None of an empty
        list), and ``histogram``, how often each number occurs.
    """
    return {name: _summary(np.array(numbers, np.int64)) for name, numbers in counts.items()}


def _summary(numbers: np.ndarray) -> dict[str, Any]:
    some = len(numbers) > 0
    return {
        "count": len(numbers),
        "total": int(numbers.sum()),
        "min": int(numbers.min()) if some else None,
        "median": float(np.median(numbers)) if some else None,
        "mean": float(numbers.mean()) if some else None,
        "max": int(numbers.max()) if some else None,
        "histogram": {str(n): k for n, k in sorted(Counter(numbers.tolist()).items())},
    }


def lines(found: Mapping[str, Mapping[str, Any]], title: str) -> list[str]:
    """A summary as a table, with what it is of in its first cell."""
    columns = ("count", "total", "min", "median", "mean", "max")
    rows = [[title, *columns]]
    for name, values in found.items():
        cells = ("-" if values[column] is None else f"{values[column]:.4g}" for column in columns)
        exact = [str(values["count"]), str(values["total"])]
        rows.append([name, *exact, *list(cells)[2:]])
    width = max(len(row[0]) for row in rows)
    return [f"{row[0]:<{width}}" + "".join(f"{cell:>10}" for cell in row[1:]) for row in rows]


def draw(counts: Mapping[str, list[int]], title: str, path: Path) -> None:
    """A histogram of each list of numbers, as one picture.

    Raises:
        InputError: the picture cannot be written.
    """
    try:  # only here: reading a cache needs NumPy and h5py alone
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator
    except ModuleNotFoundError:
        raise InputError(
            "a picture needs matplotlib, which is not installed: pip install matplotlib, or leave "
            "--out away"
        ) from None
    figure = Figure(figsize=(12, 7), layout="constrained")
    figure.suptitle(title)
    for axis, (name, numbers) in zip(figure.subplots(2, 3).flat, counts.items(), strict=True):
        what, _, of = name.partition(" per ")
        axis.set(xlabel=name, ylabel=f"{of}s")
        for ticks in (axis.xaxis, axis.yaxis):
            ticks.set_major_locator(
                MaxNLocator("auto", steps=[1, 2, 5, 10], min_n_ticks=1, integer=True)
            )
        axis.spines[["top", "right"]].set_visible(False)
        if not numbers:
            axis.text(0.5, 0.5, f"no {of}s", ha="center", transform=axis.transAxes)
            continue
        low, high = min(numbers), max(numbers)
        step = -(-(high - low + 1) // BARS)  # whole numbers to a bar, the same for every bar
        edges = np.arange(low, high + step + 1, step) - 0.5
        axis.hist(numbers, edges, color="#4c72b0", edgecolor="white", linewidth=0.5)
        margin = step * max(0.4, (LEAST - len(edges) + 1) / 2)  # a single bar is no wall
        axis.set_xlim(max(edges[0] - margin, -0.9 * step), edges[-1] + margin)
        axis.axvline(np.mean(numbers), color="#c44e52", label=f"mean {np.mean(numbers):.4g}")
        axis.legend(frameon=False, loc="lower right", bbox_to_anchor=(1, 0.97))  # above the bars
    try:
        with files.replacing(path) as temporary:
            figure.savefig(temporary, dpi=120, format=path.suffix[1:] or None)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"the picture {path} cannot be written ({reason}): give a name that ends in .png, in "
            "a folder that exists"
        ) from error
