"""Scores of Ref-DAVIS17 maps on disk, `anno_{0..3}/<sequence>/<frame>.png`."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from cache_schema.host.cli import InputError
from train.evaluation import parallel
from train.evaluation.pngs.files import map_name, open_masks
from train.evaluation.pngs.png import labels
from train.evaluation.protocols.davis import (
    ANNOTATORS,
    Result,
    SequenceTally,
    SequenceTruth,
    metrics,
)
from train.progress import progress
from train.records import AnnotatedVideo


def score_maps(
    videos: Iterable[AnnotatedVideo],
    path: Path,
    *,
    num_videos: int,
    workers: int,
    strict: bool = False,
) -> dict:
    """Score a folder or zip of palette PNGs; arguments as those of `score_masks`.

    Returns:
        The content of metrics.json: that of `metrics`, and ``missing``.

    Raises:
        InputError: there are no maps at all, or a broken one, one of another size, one with more
            objects than the benchmark takes; with ``strict`` a missing one.
    """
    score = partial(score_sequence, path=path, strict=strict)
    work = parallel.run(score, videos, workers=workers)
    results = list(progress(work, "score", num_videos))
    missing = list_missing(results)
    if results and len(missing["videos"]) == ANNOTATORS * len(results):
        video = results[0].video
        raise InputError(
            f"{path} has none of the maps to be scored, such as "
            f"{map_name(0, video.id, video.frames[0])}; give the folder or zip that has anno_0 to "
            "anno_3 at its top"
        )
    return {**metrics(results), "missing": missing}


def list_missing(results: Sequence[Result]) -> dict[str, list[str]]:
    """What is missing: whole sequences of an annotator, else frames."""
    listed: dict[str, list[str]] = {"videos": [], "frames": []}
    for result in results:
        for annotator, gaps in enumerate(result.missing):
            name = f"anno_{annotator}/{result.video.id}"
            if len(gaps) == len(result.video.frames):
                listed["videos"].append(name)
            else:
                listed["frames"] += [f"{name}/{frame}" for frame in gaps]
    return listed


def score_sequence(video: AnnotatedVideo, *, path: Path, strict: bool) -> Result:
    """Score the maps of one sequence. Raises InputError: as `score_maps`."""
    files, size = open_masks(path), video.annotated_size
    if size is None:
        raise InputError(f"video {video.id} has no masks to be scored with; download them")
    truth = SequenceTruth(video.objects, size=size, where=video.id)
    tallies = [
        SequenceTally(truth.num_objects, where=f"{path}, anno_{a}/{video.id}")
        for a in range(ANNOTATORS)
    ]
    missing: list[list[str]] = [[] for _ in tallies]
    for t, frame in enumerate(video.frames):
        true = truth.frame(t)
        for annotator, (tally, gaps) in enumerate(zip(tallies, missing, strict=True)):
            name = map_name(annotator, video.id, frame)
            ids = files.pixels(name, labels, size)
            if ids is None and strict:
                raise InputError(f"{path} has no {name}; without --strict that scores 0")
            if ids is None:
                gaps.append(frame)
            tally.add(true, ids)
    return Result(replace(video, objects={}), [tally.scores() for tally in tallies], missing)
