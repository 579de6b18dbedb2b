"""What every data set hands to the pipeline: videos, their expressions and their masks."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from pycocotools import mask as coco

from cache_schema.host.cli import InputError
from cache_schema.names import check_text
from cache_schema.records import RLE, Facts
from cache_schema.run_lengths import run_ends
from extract.datasets.frames import SIDEWAYS, FrameSource, ImageFiles, image_header, orientation


@dataclass(frozen=True, kw_only=True)
class SourceExpression:
    """A sentence about a video, as its author wrote it, and the objects that it means."""

    id: str
    text: str
    object_ids: list[str]
    annotation_ids: list[str]
    tag: str = ""


@dataclass(kw_only=True)
class SourceVideo:
    """A video of a data set. Nothing of its frames is read before they are asked for.

    Args:
        id: name within the data set.
        frame_names: one a frame, in order, without extension.
        frames: where the frames come from: image files, a video file, or a warped image.
        expressions: the sentences, possibly none.
        objects: annotation id -> one RLE (or None where the object is absent) a frame, at the
            size of the frames; empty without ground truth.
        frame_times: which frame of the video each is, ascending from 0 on; by default they are all
            that there are.
        categories: annotation id -> what the object is, where the data set says so.
        notes: what is worth knowing, such as files that are left out.

    Raises:
        InputError: a name or a sentence that no cache can store.
    """

    id: str
    frame_names: list[str]
    frames: FrameSource
    expressions: list[SourceExpression] = field(default_factory=list)
    objects: dict[str, list[RLE | None]] = field(default_factory=dict)
    frame_times: Sequence[int] | None = None
    categories: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    _size: tuple[int, int] | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.frame_times is None:
            self.frame_times = range(len(self.frame_names))
        check_text(self.id, "the id of a video")
        for name in self.frame_names:
            check_text(name, f"video {self.id!r}: the name of a frame")
        for expression in self.expressions:
            where = f"video {self.id!r}, expression {expression.id!r}"
            for text in (expression.id, expression.text, expression.tag):
                check_text(text, f"{where}: its text")

    @property
    def num_frames(self) -> int:
        return len(self.frame_names)

    def settle_orientation(self, mask_size: tuple[int, int] | None = None) -> str | None:
        """Decide whether frames with an EXIF orientation are turned, from the first one's header.

        The size of the masks decides. Where it cannot, or there are none, they are turned, as
        OpenCV and detectron2 do.

        Args:
            mask_size: (H, W) where it is known; else that of the objects.

        Returns:
            A sentence to warn with where nothing decided; None if there is nothing to say.
        """
        if not isinstance(self.frames, ImageFiles):
            return None
        turn = orientation(self.frames.paths[0])
        if turn == 1:
            return None
        if mask_size is None:
            sizes = (m["size"] for masks in self.objects.values() for m in masks if m)
            mask_size = tuple(next(sizes, ())) or None
        stored = image_header(self.frames.paths[0])[0]
        if mask_size and turn in SIDEWAYS and stored[0] != stored[1]:
            self.frames = replace(self.frames, turned=mask_size != stored)
            return None
        return (
            f"video {self.id}: its frames have the EXIF orientation {turn}, and no mask says "
            "whether they are to be turned; they are turned, as OpenCV does: remove the tag if "
            "that is wrong"
        )

    def size(self) -> tuple[int, int]:
        """(H, W) of the first frame.

        Raises:
            InputError: the frame is missing or broken, or a mask has another size.
        """
        if self._size is None:
            for warning in filter(None, (*self.notes, self.settle_orientation())):
                print(f"warning: {warning}", file=sys.stderr)
            size = self.frames.read(0).shape[:2]
            for annotation_id, masks in self.objects.items():
                for name, mask in zip(self.frame_names, masks, strict=True):
                    if mask is not None and tuple(mask["size"]) != size:
                        raise InputError(
                            f"video {self.id}: the mask of annotation {annotation_id} in frame"
                            f" {name} is {_by(mask['size'])} (height x width), but the frames are"
                            f" {_by(size)}; use the masks that belong to these frames"
                        )
            self._size = size
        return self._size

    def read_frame(self, index: int) -> np.ndarray:
        """One frame, (H, W, 3) uint8 RGB. Reading in order is fast for video files as well.

        Raises:
            InputError: the frame is missing, cannot be decoded, or differs in size from the first.
        """
        size = self.size()
        image = self.frames.read(index)
        if image.shape[:2] != size:
            raise InputError(
                f"video {self.id}: frame {self.frames.where(index)} is {_by(image.shape)} (height"
                f" x width), but the first frame is {_by(size)}; all frames of a video need one"
                " size"
            )
        return image


class Dataset:
    """A split of a data set, built as ``cls(root, split)``.

    Keyword-only arguments of the constructor are its settings: ``dataset.variants``, see `keys_of`.

    Attributes:
        facts: what it is; heads, evaluation and scoring go by it.
        ids: of the videos, in their order.
    """

    facts: Facts
    ids: list[str]

    def video(self, video_id: str, *, objects: bool = True) -> SourceVideo:
        """A video, with its masks or without; its frames are not touched yet.

        Raises:
            InputError: anything wrong with its annotation; names file, video and key.
        """
        raise NotImplementedError

    def fingerprint(self) -> dict[str, Any]:
        """What its annotations are, in plain JSON types: SHA-256 of each file; by default none."""
        return {}

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[SourceVideo]:
        return map(self.video, self.ids)


def encode_mask(mask: np.ndarray) -> RLE:
    """Compress a mask, (H, W) bool or uint8 of 0 and 1."""
    rle = coco.encode(np.asfortranarray(mask.view(np.uint8)))
    return RLE(size=[int(n) for n in rle["size"]], counts=rle["counts"].decode())


def check_rle(value: Any) -> str | None:
    """What is wrong with a JSON value that should be an `RLE`, or None.

    Run lengths must fill the mask exactly, because COCO's C code trusts them.
    """
    if not isinstance(value, dict) or not {"size", "counts"} <= value.keys():
        return "is not an object with the keys size and counts"
    size, counts = value["size"], value["counts"]
    if not (isinstance(size, list) and len(size) == 2 and all(type(n) is int for n in size)):
        return "has a size that is not [height, width]"
    if not isinstance(counts, str):
        return "has counts that are not a compressed COCO string"
    try:
        run_ends([counts], size)
    except ValueError as error:
        return f"is malformed: {error}"
    return None


def _by(size: Any) -> str:
    return f"{size[0]}x{size[1]}"
