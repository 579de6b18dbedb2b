"""Data sets as the scoring scripts need them: plain records, without frames."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from cache_schema.host.cli import InputError
from extract.datasets import MeViS, RefDAVIS, RefYouTubeVOS
from extract.datasets.records import SourceVideo
from train.evaluation.records import AnnotatedVideo, Item

DATASETS = {"mevis": MeViS, "ref_youtube_vos": RefYouTubeVOS, "ref_davis": RefDAVIS}
SPLITS = {"mevis": "valid_u", "ref_youtube_vos": "valid", "ref_davis": "valid"}

Dataset = MeViS | RefDAVIS | RefYouTubeVOS


def open_dataset(name: str, root: str, split: str | None) -> Dataset:
    """The data set of that name; Ref-DAVIS17 does without its sentences where they are missing."""
    split = split or SPLITS[name]
    if name == "ref_davis":
        sentences = (Path(root) / "davis_text_annotations").is_dir()
        return RefDAVIS(root, split, sentences=sentences)
    return DATASETS[name](root, split)


def with_truth(data: Dataset) -> Iterator[AnnotatedVideo]:
    """The videos of a split with ground truth.

    Raises:
        InputError: there is none.
    """
    if (data.masks if isinstance(data, MeViS) else data.annotations) is None:
        raise InputError(
            f"this split of {type(data).__name__} has no masks, so there is no truth to score "
            "with; hand the masks in at the benchmark's server (python -m scripts.submit)"
        )
    for video in data:
        # Only in MeViS may all sentences of a video mean nothing.
        if not video.objects and not isinstance(data, MeViS):
            raise InputError(f"video {video.id} has no masks, so there is no truth to score with")
        yield _plain(video)


def without_truth(data: Dataset) -> Iterator[AnnotatedVideo]:
    """What a submission has to hold; sizes are None where neither frames nor masks tell."""
    for video in data:
        record = _plain(video)
        size = record.annotated_size
        if size is None:
            with suppress(InputError):
                size = video.size()
        yield replace(record, objects={}, size=size)


def _plain(video: SourceVideo) -> AnnotatedVideo:
    items = [
        Item(video.id, e.id, e.text, e.tag, e.object_ids, e.annotation_ids)
        for e in video.expressions
    ]
    return AnnotatedVideo(video.id, video.frame_names, items, video.objects, None)
