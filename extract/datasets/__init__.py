"""Data sets of stage one, as they lie on the disks of their users; nothing else reads them."""

import inspect
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cache_schema.host.cli import InputError
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
        settings: whole numbers that the data set takes beside them, such as ``variants``.

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
    taken = inspect.signature(kind).parameters
    known = [key for key, parameter in taken.items() if parameter.kind is parameter.KEYWORD_ONLY]
    for key, value in (settings or {}).items():
        if key not in known:
            its = f"has {', '.join(known)}" if known else "has no settings"
            raise InputError(f"unknown key 'dataset.{key}': dataset '{name}' {its}")
        if type(value) is not int or value < 0:
            raise InputError(f"dataset.{key} is {value!r}, give a whole number")
    dataset = kind(root, split, **(settings or {}))
    for note in getattr(dataset, "notes", ()):
        print(f"warning: {note}", file=sys.stderr)
    return dataset
