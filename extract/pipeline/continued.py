"""Going on with a cache whose data set was annotated further: by its videos, not by whole files."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from cache_schema.fingerprint import differences
from cache_schema.host.cli import InputError
from cache_schema.reader import CacheReader, Video
from cache_schema.records import Facts
from cache_schema.spec import FORMAT_VERSION
from extract.datasets import Dataset, SourceVideo

ANNOTATIONS = "annotations_sha256"


def go_on(
    out: Path, dataset: Dataset, settings: dict[str, Any], *, has_text: bool
) -> tuple[dict[str, Any], Facts]:
    """Settings and facts to go on with; those of the cache where only the files have changed.

    A cache keeps the fingerprint that it began with. Files of annotations that are others by now
    are taken if they say the same of every finished video.

    Args:
        out: folder of the cache, which need not exist.
        dataset: as it is now.
        settings: the fingerprint without the codec that comes of it.
        has_text: sentences are in the cache.

    Raises:
        InputError: the cache is of another release, or a finished video is annotated in another way
            or gone.
    """
    try:
        reader = CacheReader(out)
    except InputError:  # there is nothing in it yet; what is wrong with it the writer says
        return settings, dataset.facts
    kept, now = reader.facts.release, dataset.facts.release
    if kept and now and kept != now:
        raise InputError(
            f"{out} is of release {kept} of {reader.dataset}, and the data set is release {now}: "
            "give the one that it was made of, or another folder"
        )
    facts = replace(dataset.facts, release=kept)
    first = reader.fingerprint.get(ANNOTATIONS)
    # What else is different is refused later, by name.
    given = {**settings, ANNOTATIONS: _rest(settings[ANNOTATIONS]), "codec": None}
    found = {**reader.fingerprint, ANNOTATIONS: _rest(first), "codec": None}
    same = not differences(found, given) and reader.version == FORMAT_VERSION
    if same and first != settings[ANNOTATIONS]:
        print(
            f"the annotations have changed since {out} was begun: comparing those of its "
            f"{len(reader)} videos",
            file=sys.stderr,
        )
        _compare(reader, dataset, has_text)
        settings = {**settings, ANNOTATIONS: first}
    return settings, facts


def _rest(annotations: Any) -> Any:
    """What a data set says of its annotations beside hashes of files."""
    if not isinstance(annotations, dict):
        return annotations
    return {name: value for name, value in annotations.items() if not isinstance(value, str)}


def _compare(reader: CacheReader, dataset: Dataset, has_text: bool) -> None:
    there = set(dataset.ids)
    for video_id in reader.video_ids:
        if video_id not in there:
            what = "is not in the data set any more"
        elif what := _difference(reader.video(video_id), dataset.video(video_id), has_text):
            what = f"has another annotation now ({what})"
        if what:
            raise InputError(
                f"video {video_id!r}, which {reader.path} holds, {what}: use the annotations that "
                "it was made of, or another folder"
            )


def _difference(video: Video, source: SourceVideo, has_text: bool) -> str:
    """What is annotated in another way; empty if nothing is."""
    frames = list(zip(source.frame_names, source.frame_times, strict=True))
    if frames != list(zip(video.frame_names, video.frame_times().tolist(), strict=True)):
        return "its frames"
    parts = [("object", source.objects, video.objects())]
    if has_text:
        told = [(e.id, e.text, e.tag, e.object_ids, e.annotation_ids) for e in source.expressions]
        kept = [
            (e.expression_id, e.text, e.tag, e.object_ids, e.annotation_ids)
            for e in map(video.expression, video.expression_ids)
        ]
        parts.append(("expression", {e[0]: e for e in told}, {e[0]: e for e in kept}))
    for what, now, then in parts:
        for name in {**then, **now}:
            if now.get(name) != then.get(name):
                return f"{what} {name}"
    return ""
