"""Scores of masks on disk, `<video>/<expression>/<frame>.png`, whatever method made them.

What is not zero is object. As in the benchmarks' own evaluators, what is missing scores 0.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from tqdm import tqdm

from cache_schema.host.cli import InputError
from train.evaluation import mevis, parallel, report
from train.evaluation.jf import Outline
from train.evaluation.mask_files import MaskFiles, open_masks
from train.evaluation.mevis import Score, Tally, Truth
from train.evaluation.png_codec import PNG, MaskDecoder
from train.evaluation.pngs import mask_name
from train.evaluation.records import AnnotatedVideo


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
        videos: with ground truth; taken one by one.
        path: the folder or zip.
        num_videos: for the progress bar.
        workers: processes.
        strict: stop at the first mask that is missing.

    Returns:
        The content of metrics.json: that of `report.metrics`, ``per_video``, ``missing``, and
        ``all_empty``: whether not one mask of all shows anything.

    Raises:
        InputError: there are no masks at all, or a broken one, or one of another size; with
            ``strict`` a missing one.
    """
    prefix = "Annotations/" if open_masks(path).has_folder("Annotations") else ""
    score = partial(score_video, path=path, prefix=prefix, strict=strict)
    work = parallel.run(score, (v for v in videos if v.items), workers=workers)
    results = list(tqdm(work, total=num_videos, desc="score", unit="video", disable=None))
    items = {item.key: item for result in results for item in result.video.items}
    scores = dict(zip(items, (s for result in results for s in result.scores), strict=True))
    missing = list_missing(results)
    if results and len(missing["videos"]) == len(results):
        first = results[0].video
        example = mask_name(first.id, first.items[0].expression, first.frames[0])
        raise InputError(f"{path} has none of the masks to be scored, such as {prefix}{example}")
    content = report.metrics(
        scores,
        {},
        tags={key: item.tag for key, item in items.items()},
        texts={key: item.text for key, item in items.items()},
    )
    content["per_video"] = {r.video.id: mevis.average(r.scores) for r in results}
    content["missing"] = missing
    content["all_empty"] = not any(score.found for score in scores.values())
    return content


def score_video(video: AnnotatedVideo, *, path: Path, prefix: str, strict: bool) -> VideoScores:
    """Score the masks of one video.

    Raises:
        InputError: as `score_masks`.
    """
    files, decoder = open_masks(path), MaskDecoder()
    size, truth = video.annotated_size, None
    ids = [item.annotation_ids for item in video.items]
    tally = Tally([bool(of_item) for of_item in ids])
    missing: list[list[str]] = [[] for _ in video.items]
    for t, frame in enumerate(video.frames):
        predictions: list[Outline | None] = []
        for item, gaps in zip(video.items, missing, strict=True):
            name = prefix + mask_name(video.id, item.expression, frame)
            predictions.append(read_outline(files, name, decoder, size))
            if predictions[-1] is not None:
                size = predictions[-1].size
            elif strict:
                raise InputError(f"{path} has no {name}; without --strict that scores 0")
            else:
                gaps.append(frame)
        if size is None or not any(predictions):
            tally.skip()
            continue
        truth = truth or Truth(video.objects, ids, size=size, where=video.id)
        tally.add(truth.outlines(t), predictions)
    return VideoScores(replace(video, objects={}), tally.scores(), missing)


def read_outline(
    files: MaskFiles, name: str, decoder: MaskDecoder, size: tuple[int, int] | None
) -> Outline | None:
    """A mask, prepared for scoring; None if it is missing.

    Raises:
        InputError: it is broken, or not of the size (H, W).
    """
    data = files.read(name)
    if data is None:
        return None
    try:
        png = PNG.parse(data)
        if size is not None and png.size != size:
            raise ValueError("it is {}x{} pixels, the video {}x{}".format(*png.size, *size))
        return Outline(decoder.decode(png), png.size)
    except ValueError as error:
        raise InputError(f"the mask {files.path / name} cannot be scored: {error}") from None


def list_missing(results: Sequence[VideoScores]) -> dict[str, list[str]]:
    """What is missing: whole videos, else whole expressions, else frames."""
    listed: dict[str, list[str]] = {"videos": [], "expressions": [], "frames": []}
    for result in results:
        video = result.video
        whole = [len(gaps) == len(video.frames) for gaps in result.missing]
        if all(whole):
            listed["videos"].append(video.id)
            continue
        for item, gaps, all_frames in zip(video.items, result.missing, whole, strict=True):
            if all_frames:
                listed["expressions"].append(item.key)
            else:
                listed["frames"] += [f"{item.key}/{frame}" for frame in gaps]
    return listed
