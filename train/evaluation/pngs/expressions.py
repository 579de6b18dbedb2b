"""Scores of masks on disk, `<video>/<expression>/<frame>.png`, whatever method made them.

What is not zero is object. As in the benchmarks' own evaluators, what is missing scores 0.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from cache_schema.host.cli import InputError
from train.evaluation import parallel
from train.evaluation.jf import Outline
from train.evaluation.pngs.files import mask_name, open_masks, what_is_missing
from train.evaluation.pngs.png import object_pixels
from train.evaluation.protocols.expressions import Score, Tally, Truth, average, metrics
from train.progress import progress
from train.records import AnnotatedVideo


@dataclass(frozen=True)
class VideoScores:
    """Scores of a video's expressions, and for each of them the frames without a mask.

    The video comes back from its process without the objects.
    """

    video: AnnotatedVideo
    scores: list[Score]
    missing: list[list[str]]


def score_masks(
    videos: Iterable[AnnotatedVideo],
    path: Path,
    *,
    num_videos: int,
    workers: int,
    strict: bool = False,
) -> dict:
    """Score a folder or zip of masks.

    Args:
        strict: stop at the first mask that is missing.

    Returns:
        The content of metrics.json: that of `metrics`, ``per_video``, ``missing``, and
        ``all_empty``: whether not one mask of all shows anything.

    Raises:
        InputError: there are no masks at all, or a broken one, or one of another size; with
            ``strict`` a missing one.
    """
    prefix = "Annotations/" if open_masks(path).has_folder("Annotations") else ""
    score = partial(score_video, path=path, prefix=prefix, strict=strict)
    work = parallel.run(score, (v for v in videos if v.expressions), workers=workers)
    results = list(progress(work, "score", num_videos))
    expressions = [expression for result in results for expression in result.video.expressions]
    scored = [score for result in results for score in result.scores]
    missing = list_missing(results)
    if results and len(missing["videos"]) == len(results):
        first = results[0].video
        example = mask_name(first.id, first.expressions[0].id, first.frames[0])
        raise InputError(
            f"{path} has none of the masks to be scored, such as {prefix}{example}; give the "
            "folder or zip that has the videos at its top"
        )
    content = metrics(expressions, dict(zip((e.key for e in expressions), scored, strict=True)))
    content["per_video"] = {r.video.id: average(r.scores) for r in results}
    content["missing"] = missing
    content["all_empty"] = not any(score.found for score in scored)
    return content


def score_video(video: AnnotatedVideo, *, path: Path, prefix: str, strict: bool) -> VideoScores:
    """Score the masks of one video. Raises InputError: as `score_masks`."""
    files, size, truth = open_masks(path), video.annotated_size, None
    ids = [expression.annotation_ids for expression in video.expressions]
    tally = Tally([bool(annotations) for annotations in ids])
    missing: list[list[str]] = [[] for _ in video.expressions]
    for t, frame in enumerate(video.frames):
        predictions: list[Outline | None] = []
        for expression, gaps in zip(video.expressions, missing, strict=True):
            name = prefix + mask_name(video.id, expression.id, frame)
            mask = files.pixels(name, object_pixels, size)
            if mask is None and strict:
                raise InputError(f"{path} has no {name}; without --strict that scores 0")
            if mask is None:
                gaps.append(frame)
                predictions.append(None)
            else:
                predictions.append(Outline(mask))
                size = predictions[-1].size
        if size is None or not any(predictions):
            tally.skip()
            continue
        truth = truth or Truth(video.objects, ids, size=size, where=video.id)
        tally.add(truth.outlines(t), predictions)
    return VideoScores(replace(video, objects={}), tally.scores(), missing)


def list_missing(results: Sequence[VideoScores]) -> dict[str, list[str]]:
    """What is missing: whole videos, else whole expressions, else frames."""
    listed: dict[str, list[str]] = {"videos": [], "expressions": [], "frames": []}
    for result in results:
        keys = [expression.key for expression in result.video.expressions]
        rows = {
            key: [f"{key}/{frame}" for frame in gaps]
            for key, gaps in zip(keys, result.missing, strict=True)
        }
        names = result.video.id, rows, len(result.video.frames)
        for kind, name in what_is_missing(tuple(listed), *names):
            listed[kind].append(name)
    return listed
