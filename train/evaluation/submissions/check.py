"""What a benchmark's server would say of a submission."""

from collections import Counter
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

from cache_schema.host.cli import InputError
from train.evaluation import parallel
from train.evaluation.pngs.files import open_masks
from train.evaluation.submissions.layout import Layout, Problem, Rejected
from train.progress import progress
from train.records import AnnotatedVideo


def check(
    path: Path,
    layout: Layout,
    videos: Iterable[AnnotatedVideo],
    *,
    num_videos: int,
    workers: int,
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
