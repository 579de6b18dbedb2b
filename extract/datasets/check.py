"""Whether a data set is all there and sound, found out before hours are spent on it.

Annotations are read in full; of images and PNG masks only the headers, unless all is decoded.
"""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from cache_schema.host.cli import InputError
from extract.datasets import DATASETS
from extract.datasets.frames import SIDEWAYS, ImageFiles, image_header, orientation
from extract.datasets.mevis import MeViS
from extract.datasets.palette import LABEL_MODES, VOID, PaletteDataset, mask_paths
from extract.datasets.pseudo_video import WarpedImage
from extract.datasets.published import PUBLISHED, Published
from extract.datasets.records import SourceVideo


@dataclass
class Report:
    """What was found in a split: counts, what is wrong, and what is only worth knowing."""

    videos: int = 0
    expressions: int = 0
    frames: int = 0
    wrong: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def check_split(name: str, root: Path, split: str | None, *, full: bool = False) -> Report:
    """Look at every video of a split.

    Args:
        name: key of `DATASETS`.
        root: folder of the data set.
        full: decode every frame and mask instead of reading headers.

    Raises:
        InputError: the split cannot be read at all.
    """
    dataset = DATASETS[name](root, split)
    report, referred, short = Report(videos=len(dataset)), set(), []
    report.notes += getattr(dataset, "notes", [])
    for video_id in tqdm(
        dataset.ids, desc=f"{name} {split or ''}", unit="video", leave=False, disable=None
    ):
        try:
            # Reading the objects decodes what is a PNG.
            video = dataset.video(video_id, objects=full or not isinstance(dataset, PaletteDataset))
        except InputError as error:
            report.wrong.append(str(error))
            continue
        report.expressions += len(video.expressions)
        report.frames += video.num_frames
        if video.num_frames < 2:
            short.append(video_id)
        referred.update(i for expression in video.expressions for i in expression.annotation_ids)
        if isinstance(video.frames, WarpedImage):
            _check_image(report, video.id, video.frames, full)
            continue
        report.notes += video.notes
        _check_orientation(report, dataset, video)
        sizes = _check_frames(report, video, full)
        _check_masks(report, video, sizes)
        if isinstance(dataset, PaletteDataset):
            _check_palettes(report, dataset, video, sizes, full)
            _check_objects(report, video)
    if short:
        report.notes.append(
            f"{len(short)} videos have one frame and are of no use in training, the first is"
            f" {short[0]}"
        )
    if isinstance(dataset, MeViS) and dataset.masks is not None and not report.wrong:
        unused = [i for i in dataset.masks if i not in referred]
        if unused:
            report.notes.append(
                f"{len(unused)} annotations of {dataset.masks.path} are in no sentence, the first"
                f" is {unused[0]}"
            )
    report.notes += _compare(report, PUBLISHED.get(name, {}).get(split or "", []))
    return report


def _check_image(report: Report, video_id: str, source: WarpedImage, full: bool) -> None:
    try:
        size = image_header(source.path)[0]
        if orientation(source.path) in SIDEWAYS and size != source.size:
            size = size[::-1]
        if size != source.size:
            raise InputError(
                f"{source.path} is {_by([size])}, its annotations say {_by([source.size])}"
            )
        if full:
            source.read(0)
    except InputError as error:
        report.wrong.append(f"video {video_id}: {error}")


def _check_orientation(report: Report, dataset: Any, video: SourceVideo) -> None:
    """Settle it before sizes are compared, as stage one does; what it says is a note."""
    size = None
    if isinstance(dataset, PaletteDataset) and dataset.annotations and not video.objects:
        with suppress(InputError):
            size = image_header(mask_paths(dataset.annotations, video.id, video.frame_names)[0])[0]
    if warning := video.settle_orientation(size):
        report.notes.append(warning)


def _check_frames(report: Report, video: SourceVideo, full: bool) -> set[tuple[int, int]]:
    """The sizes (H, W) of a video's frames, which should be one."""
    sizes, errors = set(), []
    headers = isinstance(video.frames, ImageFiles) and not full
    for t in range(video.num_frames if headers or full else 0):
        try:
            if headers:
                path = video.frames.paths[t]
                size = image_header(path)[0]
                sideways = video.frames.turned and orientation(path) in SIDEWAYS
                sizes.add(size[::-1] if sideways else size)
            else:
                sizes.add(video.frames.read(t).shape[:2])
        except InputError as error:
            errors.append(error)
    if errors:
        report.wrong.append(
            f"video {video.id}: {len(errors)} of {video.num_frames} frames cannot be read, the"
            f" first: {errors[0]}"
        )
    if len(sizes) > 1:
        report.wrong.append(f"video {video.id}: its frames are {_by(sizes)} (height x width)")
    return sizes


def _check_masks(report: Report, video: SourceVideo, sizes: set[tuple[int, int]]) -> None:
    for annotation_id, masks in video.objects.items():
        others = {tuple(mask["size"]) for mask in masks if mask is not None} - sizes
        if sizes and others:
            report.wrong.append(
                f"video {video.id}: masks of annotation {annotation_id} are {_by(others)}, the"
                f" frames {_by(sizes)} (height x width)"
            )


def _check_palettes(
    report: Report,
    dataset: PaletteDataset,
    video: SourceVideo,
    sizes: set[tuple[int, int]],
    full: bool,
) -> None:
    """PNG masks: whether they are all there and, by their headers, of the frames' size."""
    if dataset.annotations is None:
        return
    paths = mask_paths(dataset.annotations, video.id, video.frame_names)
    there = sum(path.is_file() for path in paths)
    if there < len(paths) and not dataset.needs_masks:
        if there:
            report.notes.append(
                f"video {video.id}: masks of {there} of {len(paths)} frames are no ground truth"
            )
        return
    errors = []
    for path in [] if full else paths:  # what was decoded has been checked
        try:
            size, mode = image_header(path)
            if mode not in LABEL_MODES:
                errors.append(f"{path} is a picture of mode {mode}, not of object ids")
            elif sizes and size not in sizes:
                errors.append(f"{path} is {_by([size])}, the frames {_by(sizes)} (height x width)")
        except InputError as error:
            errors.append(str(error))
    if errors:
        report.wrong.append(
            f"video {video.id}: {len(errors)} of {len(paths)} masks are wrong, the first:"
            f" {errors[0]}"
        )


def _check_objects(report: Report, video: SourceVideo) -> None:
    """What no sentence means, and what no mask shows."""
    targets = {i for expression in video.expressions for i in expression.annotation_ids}
    unused = {*video.objects, *video.categories} - targets - {str(VOID)}
    if targets and unused:
        report.notes.append(
            f"video {video.id}: no sentence is about object {', '.join(sorted(unused))}"
        )
    hidden = [i for i, masks in video.objects.items() if i in targets and not any(masks)]
    if hidden:
        report.notes.append(f"video {video.id}: no mask shows object {', '.join(hidden)}")


def _compare(report: Report, releases: list[Published]) -> list[str]:
    """A note on the published counts, if there are any."""
    for release in releases:
        if release.videos == report.videos and release.expressions in (None, report.expressions):
            return [f"as many as published ({release.release})"]
    said = [
        f"{r.videos:,} videos"
        + ("" if r.expressions is None else f" and {r.expressions:,} sentences")
        + f" ({r.release})"
        for r in releases
    ]
    return [f"published are {' or '.join(said)}"] if said else []


def _by(sizes: Iterable[tuple[int, int]]) -> str:
    return " and ".join(f"{height}x{width}" for height, width in sorted(sizes))
