"""Data sets as the scoring scripts need them: plain records, without frames."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from cache_schema.host.cli import InputError
from extract.datasets import DATASETS
from extract.datasets.records import SourceVideo
from train.records import AnnotatedVideo, ExpressionRef

#: Those with sentences.
NAMES = [name for name, kind in DATASETS.items() if kind.facts.has_text]


def open_dataset(name: str, root: str, split: str | None):
    """The data set of that name, by default its validation split with truth.

    That of DAVIS's protocol does without its sentences where they are missing: maps need none.
    """
    kind, settings = DATASETS[name], {}
    if kind.facts.protocol == "davis":
        settings["sentences"] = (Path(root) / "davis_text_annotations").is_dir()
    known = getattr(kind, "SPLITS", ())
    return kind(root, split or ("valid_u" if "valid_u" in known else "valid"), **settings)


def with_truth(data) -> Iterator[AnnotatedVideo]:
    """The videos of a split with ground truth. Raises InputError: there is none."""
    truth = [getattr(data, name) for name in ("masks", "annotations") if hasattr(data, name)]
    if truth == [None]:  # what has neither name, as RefCOCO, has truth throughout
        raise InputError(
            f"this split of {type(data).__name__} has no masks, so there is no truth to score "
            "with; hand the masks in at the benchmark's server (python -m scripts.submit)"
        )
    for video in data:
        if not video.objects and data.facts.one_object:
            raise InputError(f"video {video.id} has no masks, so there is no truth to score with")
        yield _plain(video)


def without_truth(data) -> Iterator[AnnotatedVideo]:
    """What a submission has to hold; sizes are None where neither frames nor masks tell."""
    for video in data:
        record = _plain(video)
        size = record.annotated_size
        if size is None:
            with suppress(InputError):
                size = video.size()
        yield replace(record, objects={}, size=size)


def _plain(video: SourceVideo) -> AnnotatedVideo:
    expressions = [
        ExpressionRef(video.id, e.id, e.text, e.tag, e.object_ids, e.annotation_ids)
        for e in video.expressions
    ]
    return AnnotatedVideo(video.id, video.frame_names, expressions, video.objects, None)
