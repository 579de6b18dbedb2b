"""Data sets of stage one, as they lie on the disks of their users; nothing else reads them."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cache_schema.host.cli import InputError
from cache_schema.host.keys import checked, keys_of
from cache_schema.host.lookup import find_class, nearest
from cache_schema.records import Facts
from extract.datasets.folder import VideoFolder
from extract.datasets.mevis import MeViS
from extract.datasets.one_video import OneVideo
from extract.datasets.records import RLE, Dataset, SourceExpression, SourceVideo
from extract.datasets.ref_davis import RefDAVIS
from extract.datasets.ref_youtube_vos import RefYouTubeVOS
from extract.datasets.refcoco import RefCOCO, RefCOCOg, RefCOCOPlus

#: The values of the config key ``dataset`` beside ``package.module:Class``.
DATASETS: dict[str, type[Dataset]] = {
    "mevis": MeViS,
    "ref_youtube_vos": RefYouTubeVOS,
    "ref_davis": RefDAVIS,
    "refcoco": RefCOCO,
    "refcoco+": RefCOCOPlus,
    "refcocog": RefCOCOg,
    "folder": VideoFolder,
    "video": OneVideo,
}


def open_dataset(
    name: str, root: Path, split: str | None, settings: Mapping[str, Any] | None = None
) -> Dataset:
    """The data set of a name.

    Args:
        name: a key of `DATASETS`, or ``package.module:Class``.
        root, split: where it lies.
        settings: what the data set takes beside them, such as ``variants``.

    Raises:
        InputError: an unknown name or setting, or what the data set itself refuses.
    """
    kind = find_class(name, "dataset") if ":" in name else DATASETS.get(name)
    if kind is None:
        raise InputError(
            f"unknown dataset '{name}'{nearest(name, DATASETS)}: known are {', '.join(DATASETS)}, "
            "and package.module:Class"
        )
    if not isinstance(getattr(kind, "facts", None), Facts):
        raise InputError(
            f"dataset {name!r} does not say what it is: give {kind.__name__} the attribute facts, "
            "a cache_schema.records.Facts"
        )
    settings = checked(settings or {}, keys_of(kind), "dataset", f"dataset {name!r}: ")
    dataset = kind(root, split, **settings)
    ids = getattr(dataset, "ids", ())
    if not ids or any(type(i) is not str for i in ids) or len(set(ids)) < len(ids):
        raise InputError(
            f"dataset {name!r}, split {split}: the ids of its videos are {ids!r:.80}; they have to "
            "be words, at least one and each once"
        )
    for note in getattr(dataset, "notes", ()):
        print(f"warning: {note}", file=sys.stderr)
    return dataset
