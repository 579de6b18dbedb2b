"""Every video of a data set twice: as it is, and as a mirror on its left shows it."""

import re
from dataclasses import fields, replace
from typing import Any

import numpy as np
from pycocotools import mask as coco

from cache_schema.host.cli import InputError
from extract.datasets.records import Dataset, SourceVideo, encode_mask

SUFFIX = ".mirrored"

EXCHANGED = {
    "left": "right",
    "right": "left",
    "clockwise": "counterclockwise",
    "counterclockwise": "clockwise",
    "anticlockwise": "clockwise",
}
_WORD = re.compile(
    r"\b(?:(?:left|right)(?=(?:most|handed|hand|side|wards|ward|er|est|y|ies|ie)?\b)"
    r"|(?:counter|anti)?clockwise\b)",
    re.IGNORECASE,
)


class MirroredVideo(SourceVideo):
    """A video whose frames are mirrored when they are read."""

    def read_frame(self, index: int) -> np.ndarray:
        """See `SourceVideo.read_frame`."""
        return np.ascontiguousarray(super().read_frame(index)[:, ::-1])


class Mirrored(Dataset):
    """A data set and its mirror image; the id of a mirrored video ends in ``.mirrored``.

    Args:
        dataset: any other.
        words: whether the sentences of mirrored videos are, too, see `mirrored`.

    Raises:
        InputError: a video whose id already ends so.
    """

    def __init__(self, dataset: Dataset, *, words: bool) -> None:
        self._dataset, self._words = dataset, words
        self.facts = dataset.facts
        for name in dataset.ids:
            if name.endswith(SUFFIX):
                raise InputError(f"video {name!r} is mirrored already: leave the key mirror out")
        self.ids = [name for own in dataset.ids for name in (own, own + SUFFIX)]

    def video(self, video_id: str, *, objects: bool = True) -> SourceVideo:
        """See `Dataset.video`."""
        own = video_id.removesuffix(SUFFIX)
        video = self._dataset.video(own, objects=objects)
        if own == video_id:
            return video
        given = {field.name: getattr(video, field.name) for field in fields(video) if field.init}
        given["id"] = video_id
        given["objects"] = {
            name: [mask and encode_mask(coco.decode(mask)[:, ::-1]) for mask in masks]
            for name, masks in video.objects.items()
        }
        if self._words:
            given["expressions"] = [
                replace(each, text=mirrored(each.text)) for each in video.expressions
            ]
        return MirroredVideo(**given)

    def fingerprint(self) -> dict[str, Any]:
        """Of the data set's own files."""
        return self._dataset.fingerprint()


def mirrored(text: str) -> str:
    """A sentence about the mirrored image: sides, and ways to turn, are exchanged.

    Words that contain "left" and "right" are changed, too ("leftmost", "right-handed"); others that
    begin alike are not ("leftovers", "upright"). Misspelt words, writing in the image and "the man
    who left" are not told apart.
    """
    return _WORD.sub(_other_side, text)


def _other_side(match: re.Match[str]) -> str:
    word = match[0]
    other = EXCHANGED[word.lower()]
    return other.upper() if word.isupper() else other.title() if word.istitle() else other
