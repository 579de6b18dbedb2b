"""Makes the zip of a submission, and says what a server would say of one.

What belongs into it says `train.evaluation.submissions.layout`. Masks go straight into the zip, one
video after the other, from somebody's files or replayed frame by frame from a cache and stored
predictions. Each is checked before it is written, and the zip appears under its name only if it is
complete.
"""

import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import torch

from cache_schema.host.cli import InputError
from cache_schema.host.files import replacing
from cache_schema.reader import CacheReader
from train.evaluation import parallel
from train.evaluation.from_cache.contents import ReplayTask, check_origin, list_expressions
from train.evaluation.from_cache.davis import object_maps
from train.evaluation.pngs.files import open_masks
from train.evaluation.pngs.png import (
    PNG,
    Undecided,
    encode_labels,
    encode_mask,
    grey_values,
    labels,
    object_pixels,
)
from train.evaluation.submissions.layout import Layout, Problem, Rejected, pick_layout
from train.predictions import Predictions
from train.progress import progress
from train.records import AnnotatedVideo
from train.replay import replay


class SubmissionWriter:
    """Puts the masks of a submission into its zip; see `new_submission`."""

    def __init__(self, archive: zipfile.ZipFile, layout: Layout) -> None:
        self._zip, self._layout, self.num_files = archive, layout, 0

    def add(self, video: AnnotatedVideo, masks: Iterable[tuple[str, bytes]]) -> None:
        """Write the masks of a video, as names and checked PNGs, in any order.

        Raises:
            Rejected: one is missing, or not one of the video.
            OSError: of the storage, which leaving the context turns into `InputError`.
        """
        missing = {name for row in self._layout.file_names(video) for name in row}
        for name, data in masks:
            if name not in missing:
                raise Rejected([Problem("extra file", name)])
            missing.remove(name)
            # A fixed date: the same masks make the same zip.
            self._zip.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), data)
            self.num_files += 1
        if missing:
            raise Rejected([Problem("missing frame", name) for name in sorted(missing)])


@contextmanager
def new_submission(path: Path, layout: Layout) -> Iterator[SubmissionWriter]:
    """A zip that appears under its name when it is complete, and not at all otherwise.

    Args:
        path: the zip; a present one is replaced.

    Raises:
        InputError: the zip cannot be written.
    """
    # PNGs are compressed already.
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        yield SubmissionWriter(archive, layout)


def from_files(
    source: Path,
    layout: Layout,
    videos: Iterable[AnnotatedVideo],
    path: Path,
    *,
    num_videos: int,
    workers: int,
) -> int:
    """Pack somebody's masks into a submission, in the mode that the server wants.

    Args:
        source: folder or zip of the masks; with or without the folder Annotations.
        videos: what has to be in it; truth is not needed.

    Returns:
        The number of masks.

    Raises:
        InputError: neither folder nor zip.
        Rejected: masks are missing, broken or of another size.
    """
    top = layout.top.rstrip("/")
    prefix = layout.top if top and open_masks(source).has_folder(top) else ""
    pack = partial(_pack_video, source=source, layout=layout, prefix=prefix)
    problems: list[Problem] = []
    with new_submission(path, layout) as writer:
        work = parallel.run(pack, layout.wanted(videos), workers=workers)
        for video, masks, found in progress(work, "pack", num_videos):
            problems += found
            if not problems:
                writer.add(video, masks)
        if problems:
            raise Rejected(problems)
    return writer.num_files


def _pack_video(
    video: AnnotatedVideo, *, source: Path, layout: Layout, prefix: str
) -> tuple[AnnotatedVideo, list[tuple[str, bytes]], list[Problem]]:
    """The masks of a video as names and checked PNGs, or what is wrong with them."""

    def read(name: str) -> bytes | None:
        data = open_masks(source).read(prefix + name.removeprefix(layout.top))
        try:
            return data and _converted(data, layout)
        except Undecided as error:
            raise Rejected([Problem("unclear mask", f"{name}: {error}")]) from None

    return video, *layout.look(video, read)


def _converted(data: bytes, layout: Layout) -> bytes:
    """A mask in the mode that the server wants; as it is if it cannot be read.

    Raises:
        Undecided: it cannot be told what is object.
    """
    try:
        png = PNG.parse(data)
        if layout.maps:
            return data if png.mode == "P" else encode_labels(labels(png))
        if png.mode == "L":
            values = grey_values(png)
            if not ((values != 0) & (values != 255)).any():
                return data
        return encode_mask(object_pixels(png))
    except Undecided:
        raise
    except ValueError:
        return data


def check(
    path: Path, layout: Layout, videos: Iterable[AnnotatedVideo], *, num_videos: int, workers: int
) -> list[Problem]:
    """Everything that would be rejected; nothing if all is well.

    Args:
        videos: what has to be in it; truth is not needed.

    Raises:
        InputError: the zip cannot be read.
    """
    names = open_masks(path).names()
    videos = list(layout.wanted(videos))
    expected = [layout.file_names(video) for video in videos]
    wanted = {name for rows in expected for row in rows for name in row}
    problems = [Problem("path that leaves the folder", n) for n in names if _leaves(n)]
    if wanted.isdisjoint(names):
        return problems + [_nothing_fits(names, min(wanted), layout.top)]
    twice = [name for name, times in Counter(names).items() if times > 1]
    problems += [Problem("file that is there twice", name) for name in twice]
    others = [name for name in names if name not in wanted and not _leaves(name)]
    problems += _extra(layout, others, wanted)
    work = parallel.run(partial(check_video, path=path, layout=layout), videos, workers=workers)
    for found in progress(work, "check", num_videos):
        problems += found
    return problems


def check_video(video: AnnotatedVideo, *, path: Path, layout: Layout) -> list[Problem]:
    """What is missing of one video, and what is wrong with its files."""

    def read(name: str) -> bytes | None:
        try:
            return open_masks(path).read(name)
        except InputError as error:
            raise Rejected([Problem("broken file", str(error))]) from None

    return layout.look(video, read)[1]


def _extra(layout: Layout, names: Sequence[str], wanted: set[str]) -> list[Problem]:
    """Files that nobody asked for; a folder of them is named once."""
    inner, outer = ("video", "annotator") if layout.maps else ("expression", "video")
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


def cache_videos(reader: CacheReader) -> list[AnnotatedVideo]:
    """What a submission of a cache's predictions has to hold.

    Raises:
        InputError: the cache lacks videos.
    """
    if reader.failures:
        raise InputError(
            f"{reader.path} lacks {len(reader.failures)} videos that failed, such as "
            f"{next(iter(reader.failures))}; extract them again before anything is handed in"
        )
    videos = []
    for video_id, expressions in list_expressions(reader).items():
        video = reader.video(video_id)
        size = (video.geometry.height, video.geometry.width)
        videos.append(AnnotatedVideo(video_id, video.frame_names, expressions, {}, size))
    return videos


def from_cache(
    reader: CacheReader,
    predictions: Predictions,
    path: Path,
    *,
    sigma: float,
    device: torch.device | str = "cpu",
) -> int:
    """Replay stored predictions into a submission.

    Returns:
        The number of masks.

    Raises:
        InputError: the predictions are of another cache or incomplete, or see `cache_videos` and
            `pick_layout`.
        Rejected: the result would be.
    """
    check_origin(reader, predictions)
    videos = {video.id: video for video in cache_videos(reader)}
    layout = pick_layout(reader.facts, str(reader.path))
    by_video = {video.id: video.expressions for video in videos.values()}
    task = ReplayTask(reader, predictions, by_video, [sigma], device=device)
    with new_submission(path, layout) as writer:
        for video, expressions, (kept,) in task:
            if layout.maps:
                frames: Iterable = object_maps(video, expressions, kept, device=device)
            else:
                frames = replay(video, kept, device=device)
            writer.add(videos[video.id], _encoded(layout, videos[video.id], frames))
    return writer.num_files


def _encoded(
    layout: Layout, video: AnnotatedVideo, frames: Iterable[Iterable[np.ndarray]]
) -> Iterator[tuple[str, bytes]]:
    """Names and checked PNGs of a video's masks: for each frame those of all expressions."""
    rows = layout.file_names(video)
    encode = encode_labels if layout.maps else encode_mask
    for t, masks in enumerate(frames):
        for row, mask in zip(rows, masks, strict=True):
            data = encode(mask)
            problem, _ = layout.check_png(data, video.size)
            if problem is not None:
                raise Rejected([Problem(problem.kind, f"{row[t]}: {problem.where}")])
            yield row[t], data
