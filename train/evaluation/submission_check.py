"""What a benchmark's server would say of a submission.

    mevis            <video>/<expression>/<frame>.png, mode L, 0 and 255
    ref_youtube_vos  the same in a folder Annotations
    ref_davis        anno_{0..3}/<sequence>/<frame>.png, object ids with a palette

All are at the original size of the video, one for every expression (or annotator) and frame, with
nothing around or beside them.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from cache_schema.host.cli import InputError
from train.evaluation import parallel
from train.evaluation.davis import ANNOTATORS, MAX_OBJECTS
from train.evaluation.mask_files import open_masks
from train.evaluation.png_codec import PNG, grey_values, labels
from train.evaluation.pngs import is_plain
from train.evaluation.records import AnnotatedVideo

MEVIS, YOUTUBE, DAVIS = "mevis", "ref_youtube_vos", "ref_davis"
LAYOUTS = (MEVIS, YOUTUBE, DAVIS)
TOP = {MEVIS: "", YOUTUBE: "Annotations/", DAVIS: ""}


@dataclass(frozen=True)
class Problem:
    """Something that would be rejected: what kind of thing it is, and where."""

    kind: str
    where: str


def file_names(dataset: str, video: AnnotatedVideo) -> list[list[str]]:
    """The files of a video: for each expression (or annotator) one a frame.

    Raises:
        InputError: an id cannot be the name of a file.
    """
    odd = [
        part
        for part in (video.id, *video.frames, *(item.expression for item in video.items))
        if not is_plain(part)
    ]
    if odd:
        raise InputError(f"video {video.id!r}: {odd[0]!r} is no plain name for a file or folder")
    if dataset == DAVIS:
        folders = [f"anno_{a}/{video.id}" for a in range(ANNOTATORS)]
    else:
        folders = [f"{TOP[dataset]}{video.id}/{item.expression}" for item in video.items]
    return [[f"{folder}/{frame}.png" for frame in video.frames] for folder in folders]


def check(
    path: Path,
    dataset: str,
    videos: Iterable[AnnotatedVideo],
    *,
    num_videos: int,
    workers: int,
) -> list[Problem]:
    """Everything that would be rejected; nothing if all is well.

    Args:
        path: the zip.
        dataset: one of `LAYOUTS`.
        videos: what has to be in it; truth is not needed.
        num_videos: for the progress bar.
        workers: processes.

    Raises:
        InputError: the zip cannot be read.
    """
    names = open_masks(path).names()
    videos = [video for video in videos if video.items or dataset == DAVIS]
    expected = [file_names(dataset, video) for video in videos]
    wanted = {name for rows in expected for row in rows for name in row}
    problems = [Problem("path that leaves the folder", n) for n in names if _leaves(n)]
    if wanted.isdisjoint(names):
        return problems + [_nothing_fits(names, min(wanted), TOP[dataset])]
    twice = [name for name, times in Counter(names).items() if times > 1]
    problems += [Problem("file that is there twice", name) for name in twice]
    others = [name for name in names if name not in wanted and not _leaves(name)]
    problems += _extra(dataset, others, wanted)
    work = parallel.run(partial(check_video, path=path, dataset=dataset), videos, workers=workers)
    for found in tqdm(work, total=num_videos, desc="check", unit="video", disable=None):
        problems += found
    return problems


def check_video(video: AnnotatedVideo, *, path: Path, dataset: str) -> list[Problem]:
    """What is missing of one video, and what is wrong with its files."""
    files, size, problems = open_masks(path), video.annotated_size, []
    rows, gaps = file_names(dataset, video), []
    for row in rows:
        gaps.append([])
        for name in row:
            try:
                data = files.read(name)
            except InputError as error:
                problems.append(Problem("broken file", str(error)))
                continue
            if data is None:
                gaps[-1].append(name)
                continue
            problem, size = check_png(data, dataset, size)
            if problem is not None:
                problems.append(Problem(problem.kind, f"{name}: {problem.where}"))
    return problems + list(list_missing(dataset, video, rows, gaps))


def check_png(
    data: bytes, dataset: str, size: tuple[int, int] | None
) -> tuple[Problem | None, tuple[int, int] | None]:
    """What is wrong with a mask, and the size of the video's masks if it was not known."""
    try:
        png = PNG.parse(data)
        png.inflated()
    except ValueError as error:
        return Problem("broken PNG", str(error)), size
    size = size or png.size
    if png.size != size:
        found = "{}x{} pixels, the video {}x{}".format(*png.size, *size)
        return Problem("wrong size", found), size
    mode = "P" if dataset == DAVIS else "L"
    if png.mode != mode:
        return Problem("wrong mode", f"{png.mode}, not {mode}"), size
    if dataset == DAVIS:
        highest = int(labels(png).max())
        if highest > MAX_OBJECTS:
            return Problem("wrong values", f"object {highest}, at most {MAX_OBJECTS}"), size
    else:
        values = grey_values(png)
        odd = values[(values != 0) & (values != 255)]
        if len(odd):
            return Problem("wrong values", f"{np.unique(odd)[:3].tolist()}, not 0 and 255"), size
    return None, size


def list_missing(
    dataset: str, video: AnnotatedVideo, rows: Sequence[list[str]], gaps: Sequence[list[str]]
) -> Iterator[Problem]:
    """What is missing of a video's files: all of it, else whole rows, else frames."""
    whole = [row == gap for row, gap in zip(rows, gaps, strict=True)]
    if all(whole):
        yield Problem("missing video", video.id)
        return
    for row, gap, all_frames in zip(rows, gaps, whole, strict=True):
        if all_frames:
            kind = "missing annotator" if dataset == DAVIS else "missing expression"
            yield Problem(kind, row[0].rpartition("/")[0])
        else:
            yield from (Problem("missing frame", name) for name in gap)


def _extra(dataset: str, names: Sequence[str], wanted: set[str]) -> list[Problem]:
    """Files that nobody asked for; a folder of them is named once."""
    inner, outer = ("video", "annotator") if dataset == DAVIS else ("expression", "video")
    folders = {name.rpartition("/")[0] for name in wanted}
    above = {folder.rpartition("/")[0] for folder in folders}
    found = {}
    for name in names:
        folder = name.rpartition("/")[0]
        parent = folder.rpartition("/")[0]
        if folder in folders:
            found[name] = "extra frame"
        elif parent in above:
            found[folder] = f"extra {inner}"
        elif parent and name.endswith(".png"):
            found[parent] = f"extra {outer}"
        else:
            found[name] = "extra file"
    return [Problem(kind, where) for where, kind in found.items()]


def _nothing_fits(names: Sequence[str], example: str, top: str) -> Problem:
    """Why no name is as expected."""
    around = next((name for name in names if name.endswith(f"/{example}")), None)
    if around is not None:
        return Problem("wrapper folder", f"{around.removesuffix(example)} around everything")
    if top and any(name == example.removeprefix(top) for name in names):
        return Problem("missing folder", f"{top} has to be around everything")
    return Problem("missing video", f"all: no file is named as {example} is")


def _leaves(name: str) -> bool:
    parts = name.replace("\\", "/").split("/")
    return name.startswith(("/", "\\")) or ".." in parts or "\\" in name or ":" in parts[0]


def report_lines(problems: Sequence[Problem], shown: int = 5) -> str:
    """A line a kind: how many, and the first of them."""
    kinds = dict.fromkeys(problem.kind for problem in problems)
    lines = []
    for kind in kinds:
        where = [problem.where for problem in problems if problem.kind == kind]
        more = ", ..." if len(where) > shown else ""
        lines.append(f"{kind}: {len(where)} ({', '.join(where[:shown])}{more})")
    return "\n".join(lines)
