"""Writes the zip of a submission; what belongs into it says `train.evaluation.submissions.layout`.

Masks go straight into the zip, one video after the other. Each is checked before it is written, and
the zip appears under its name only if it is complete. Here they come from somebody's files; from
stored predictions see `train.evaluation.submissions.from_cache`.
"""

import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from cache_schema.host.files import replacing
from train.evaluation import parallel
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
from train.evaluation.submissions.layout import Layout, Problem, Rejected
from train.progress import progress
from train.records import AnnotatedVideo


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
