"""How the benchmarks' servers want masks: which files, and what has to be in each.

    MeViS            <video>/<expression>/<frame>.png, mode L, 0 and 255
    Ref-YouTube-VOS  the same in a folder Annotations
    Ref-DAVIS17      anno_{0..3}/<sequence>/<frame>.png, object ids with a palette

All are at the original size of the video, one for every expression (or annotator) and frame, with
nothing around or beside them.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from cache_schema.host.cli import InputError
from cache_schema.records import Facts
from train.evaluation.pngs.files import is_plain, what_is_missing
from train.evaluation.pngs.png import PNG, grey_values, labels
from train.evaluation.protocols.davis import ANNOTATORS, MAX_OBJECTS
from train.records import AnnotatedVideo


@dataclass(frozen=True)
class Problem:
    """Something that would be rejected: what kind of thing it is, and where."""

    kind: str
    where: str


class Rejected(Exception):
    """The masks do not make a submission; ``problems`` says why."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__(f"{len(problems)} problems")
        self.problems = problems


@dataclass(frozen=True)
class Layout:
    """How a server wants masks.

    Attributes:
        server: of which benchmark.
        top: the folder around everything, with its slash.
        maps: one map of all objects for each annotator, not one mask for each expression.
    """

    server: str
    top: str = ""
    maps: bool = False

    def wanted(self, videos: Iterable[AnnotatedVideo]) -> Iterator[AnnotatedVideo]:
        """The videos that have files."""
        return (video for video in videos if self.maps or video.expressions)

    def file_names(self, video: AnnotatedVideo) -> list[list[str]]:
        """The files of a video: for each expression (or annotator) one a frame.

        Raises:
            InputError: an id cannot be the name of a file.
        """
        ids = [expression.id for expression in video.expressions]
        odd = [part for part in (video.id, *video.frames, *ids) if not is_plain(part)]
        if odd:
            raise InputError(
                f"video {video.id!r}: {odd[0]!r} is no plain name for a file or folder"
            )
        if self.maps:
            folders = [f"anno_{a}/{video.id}" for a in range(ANNOTATORS)]
        else:
            folders = [f"{self.top}{video.id}/{expression}" for expression in ids]
        return [[f"{folder}/{frame}.png" for frame in video.frames] for folder in folders]

    def check_png(
        self, data: bytes, size: tuple[int, int] | None
    ) -> tuple[Problem | None, tuple[int, int] | None]:
        """What is wrong with a mask, and the size of the video's masks if it was not known."""
        try:
            png = PNG.parse(data)
            size = size or png.size
            if png.size != size:
                found = "{}x{} pixels, the video {}x{}".format(*png.size, *size)
                return Problem("wrong size", found), size
            mode = "P" if self.maps else "L"
            if png.mode != mode:
                return Problem("wrong mode", f"{png.mode}, not {mode}"), size
            values = labels(png) if self.maps else grey_values(png)
        except ValueError as error:
            return Problem("broken PNG", str(error)), size
        if self.maps and values.max() > MAX_OBJECTS:
            return Problem("wrong values", f"object {values.max()}, at most {MAX_OBJECTS}"), size
        odd = values[(values != 0) & (values != 255)]
        if len(odd) and not self.maps:
            return Problem("wrong values", f"{np.unique(odd)[:3].tolist()}, not 0 and 255"), size
        return None, size

    def look(
        self, video: AnnotatedVideo, read: Callable[[str], bytes | None]
    ) -> tuple[list[tuple[str, bytes]], list[Problem]]:
        """The sound masks of a video by name, and what is wrong with the others.

        Args:
            read: gives a file, None where there is none, or raises `Rejected`.
        """
        masks, problems, size = [], [], video.annotated_size
        gaps: dict[str, list[str]] = {}
        for row in self.file_names(video):
            missing = gaps[row[0].rpartition("/")[0]] = []
            for name in row:
                try:
                    data = read(name)
                except Rejected as rejected:
                    problems += rejected.problems
                    continue
                if data is None:
                    missing.append(name)
                    continue
                problem, size = self.check_png(data, size)
                if problem is None:
                    masks.append((name, data))
                else:
                    problems.append(Problem(problem.kind, f"{name}: {problem.where}"))
        kinds = "video", "annotator" if self.maps else "expression", "frame"
        found = what_is_missing(kinds, video.id, gaps, len(video.frames))
        return masks, problems + [Problem(f"missing {kind}", name) for kind, name in found]


MEVIS = Layout("MeViS")
REF_YOUTUBE_VOS = Layout("Ref-YouTube-VOS", top="Annotations/")
REF_DAVIS = Layout("Ref-DAVIS17", maps=True)


def pick_layout(facts: Facts, where: str) -> Layout:
    """The layout of the benchmark whose expressions are of this kind: there is one of each.

    Raises:
        InputError: there is no such benchmark, or the data set does not say what it is.
    """
    if not facts.has_text:
        raise InputError(f"{where} has no sentences, so it is handed in nowhere")
    if facts.protocol == "davis":
        return REF_DAVIS
    if facts.one_object is None:
        raise InputError(
            f"{where} does not say whether an expression means exactly one object, as in "
            "Ref-YouTube-VOS, or any number, as in MeViS, and the servers of the two want "
            "different folders; extract it again"
        )
    return REF_YOUTUBE_VOS if facts.one_object else MEVIS
