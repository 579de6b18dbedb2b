"""Builds the page: figures, expressions, and of each its frames with truth and predictions."""

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco

from cache_schema.host import files
from cache_schema.host.cli import InputError
from cache_schema.reader import CacheReader, Video
from train.evaluation.from_cache.contents import check_origin
from train.evaluation.report import NAMES, figures_table, head_name
from train.predictions import Predictions
from train.replay import keep, replay

PAGE = Path(__file__).with_name("page.html")
#: Pixels of the width of a frame on the page, frames of a video, expressions with pictures, and
#: what JPEG keeps.
WIDTH, FRAMES, PICTURED, QUALITY = 320, 24, 400, 60

#: The frame of a video by its number, (H, W, 3) uint8 RGB.
FrameOf = Callable[[str, int], np.ndarray]


@dataclass(frozen=True)
class Evaluated:
    """A head on the page.

    Attributes:
        name: as it is called there.
        metrics: the content of its metrics.json.
        predictions: what it said.
        sigma: above which queries were kept.
        at_most: how many of them.
    """

    name: str
    metrics: Mapping[str, Any]
    predictions: Predictions
    sigma: float
    at_most: int | None = None

    @classmethod
    def of(cls, name: str, metrics: Mapping[str, Any], predictions: Predictions) -> "Evaluated":
        """A head from what an evaluation wrote, without a name that of its kind.

        Raises:
            KeyError, TypeError, IndexError, ValueError: these are no metrics by expressions.
        """
        run = metrics["run"]
        sigma = run["sigma"][0] if isinstance(run["sigma"], list) else run["sigma"]
        _check(metrics)
        at_most = run.get("keep")
        if at_most is not None and (type(at_most) is not int or at_most < 1):
            raise ValueError(f"{at_most!r:.40} queries were kept")
        return cls(name or head_name(metrics), metrics, predictions, float(sigma), at_most)


def _check(metrics: Mapping[str, Any]) -> None:
    """Raise some error unless all that the page shows is there and a number."""
    tags = metrics["per_tag"]
    shown = [metrics["num_expressions"], *(tags[tag]["num_expressions"] for tag in tags)]
    for row in (metrics, *metrics.get("controls", {}).values()):
        shown += [row["J&F"], row["J"], row["F"], *(row["per_tag"][tag]["J&F"] for tag in tags)]
    shown += [scores["J&F"] for scores in metrics["per_expression"].values()]
    shown += [metrics[name] for name in ("N-acc", "T-acc") if metrics.get(name) is not None]
    if odd := [value for value in shown if type(value) not in (int, float) or not 0 <= value < 1e9]:
        raise ValueError(f"{odd[0]!r:.40} is no figure")


def write_report(
    path: Path,
    reader: CacheReader,
    heads: Sequence[Evaluated],
    *,
    frame_of: FrameOf | None = None,
    sweep: Mapping[str, Any] | None = None,
    pictured: int = PICTURED,
) -> None:
    """Write the page.

    Args:
        path: of the file.
        reader: of the cache that was evaluated on.
        heads: at least one, all on the same expressions.
        frame_of: the frames; None draws masks over a plain ground.
        sweep: ``rows`` (lists of words, the header first) and ``plot`` (PNG, base64 or None).
        pictured: expressions that are shown; of more, the worst of the first head.

    Raises:
        InputError: predictions that are not of this cache, or a file that cannot be written.
    """
    first = heads[0].metrics
    tags = list(first["per_tag"])
    for head in heads:
        check_origin(reader, head.predictions)
    expressions, videos = _pictures(reader, heads, frame_of, pictured)
    content = {
        "title": " ".join(filter(None, (reader.dataset, reader.facts.release, reader.split))),
        "about": f"{first['num_expressions']} expressions of {len(reader)} videos",
        "heads": [head.name for head in heads],
        "tags": tags,
        "figures": [
            {
                "name": name,
                "control": control,
                "values": [
                    figures["J&F"], *(figures["per_tag"][tag]["J&F"] for tag in tags),
                    figures["J"], figures["F"],
                ],
            }
            for name, figures, control in _rows(heads)
        ],
        "counts": [
            first["num_expressions"], *(first["per_tag"][t]["num_expressions"] for t in tags),
            None, None,
        ],
        "accuracies": "; ".join(
            f"{head.name}: N-acc {100 * head.metrics['N-acc']:.1f}%, "
            f"T-acc {100 * head.metrics['T-acc']:.1f}%"
            for head in heads
            if head.metrics.get("N-acc") is not None and head.metrics.get("T-acc") is not None
        ),
        "expressions": expressions,
        "videos": videos,
        "sweep": dict(sweep) if sweep else None,
    }  # fmt: skip
    text = json.dumps(content, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    files.write(path, PAGE.read_text("utf-8").replace("/*CONTENT*/", text))


def table(heads: Sequence[Evaluated]) -> str:
    """The first table of the page as text, in percent."""
    return figures_table([(name, own) for name, own, _ in _rows(heads)], heads[0].metrics)


def _rows(heads: Sequence[Evaluated]) -> list[tuple[str, Mapping[str, Any], bool]]:
    """Name and figures of heads and controls, whether it is one; those that need no head once."""
    rows = [(head.name, head.metrics, False) for head in heads]
    for head in heads:
        for name, figures in head.metrics.get("controls", {}).items():
            words = NAMES.get(name, name)
            if name == "shuffled" and len(heads) > 1:
                words = f"{head.name}, {words}"
            if words not in (made for made, _, _ in rows):
                rows.append((words, figures, True))
    return rows


def _pictures(
    reader: CacheReader, heads: Sequence[Evaluated], frame_of: FrameOf | None, pictured: int
) -> tuple[list[dict], list[dict]]:
    """The worst expressions of the first head, in the cache's order, and their videos."""
    expressions, videos = [], []
    scored = heads[0].metrics["per_expression"]
    worst = set(sorted(scored, key=lambda key: scored[key]["J&F"])[:pictured])
    for video_id in reader.video_ids:
        video = reader.video(video_id)
        ids = [i for i in video.expression_ids if f"{video_id}/{i}" in worst]
        if not ids:
            continue
        times = np.linspace(0, video.num_frames - 1, min(FRAMES, video.num_frames))
        times = sorted(set(times.round().astype(int).tolist()))
        said = [_said(video, ids, head, times) for head in heads]
        truths = _truths(video, ids, times)
        for i, expression_id in enumerate(ids):
            expression = video.expression(expression_id)
            key = f"{video_id}/{expression_id}"
            expressions.append(
                {
                    "key": key,
                    "number": len(expressions),
                    "of": len(videos),
                    "video": video_id,
                    "text": expression.text,
                    "tag": expression.tag,
                    "targets": len(expression.annotation_ids),
                    "scores": [head.metrics["per_expression"][key]["J&F"] for head in heads],
                    "truth": truths[i],
                    "masks": [masks[i] for masks in said],
                }
            )
        frames = [None if frame_of is None else _jpeg(frame_of(video_id, t)) for t in times]
        names = [video.frame_names[t] for t in times]
        videos.append({"size": _size(video), "names": names, "frames": frames})
    if lacking := len(worst) - len(expressions):
        raise InputError(
            f"{reader.path} lacks {lacking} of the expressions that were evaluated; give the cache "
            "that they were evaluated on"
        )
    return expressions, videos


def _size(video: Video) -> tuple[int, int]:
    """(height, width) on the page."""
    height, width = video.geometry.height, video.geometry.width
    shrunk = min(1.0, WIDTH / width)
    return max(1, round(height * shrunk)), max(1, round(width * shrunk))


def _small(mask: np.ndarray, size: tuple[int, int]) -> str | None:
    """A mask (H, W) at the page's size, as COCO's run lengths; None if nothing is left."""
    small = cv2.resize(mask.astype(np.uint8), size[::-1], interpolation=cv2.INTER_NEAREST)
    return coco.encode(np.asfortranarray(small))["counts"].decode() if small.any() else None


def _said(
    video: Video, ids: Sequence[str], head: Evaluated, times: Sequence[int]
) -> list[list[str | None]]:
    """What a head says: of each expression a mask a frame."""
    groups = []
    for expression_id in ids:
        scores, queries = head.predictions.get(video.id, expression_id)
        how = {"rule": head.predictions.rule, "sigma": head.sigma, "at_most": head.at_most}
        groups.append(queries[keep(scores, **how)])
    made: list[list[str | None]] = [[] for _ in ids]
    wanted = set(times)
    for t, masks in enumerate(replay(video, groups)):
        if t in wanted:
            for row, mask in zip(made, masks, strict=True):
                row.append(_small(mask, _size(video)))
    return made


def _truths(video: Video, ids: Sequence[str], times: Sequence[int]) -> list[list[str | None]]:
    """What is true, likewise."""
    made = []
    for expression_id in ids:
        objects = [video.object(i) for i in video.expression(expression_id).annotation_ids]
        row: list[str | None] = []
        for t in times:
            masks = [coco.decode(rles[t]).astype(bool) for rles in objects if rles[t] is not None]
            row.append(_small(np.logical_or.reduce(masks), _size(video)) if masks else None)
        made.append(row)
    return made


def _jpeg(image: np.ndarray) -> str:
    """A frame as base64 of a JPEG, at most `WIDTH` wide."""
    if image.shape[1] > WIDTH:
        height = max(1, round(image.shape[0] * WIDTH / image.shape[1]))
        image = cv2.resize(image, (WIDTH, height), interpolation=cv2.INTER_AREA)
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    _, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    return base64.b64encode(data).decode()
