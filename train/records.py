"""What is scored, as plain data: from a cache or from a data set, and fit to go to workers."""

from dataclasses import dataclass

from cache_schema.records import RLE


@dataclass(frozen=True)
class ExpressionRef:
    """One expression, without its features."""

    video: str
    id: str
    text: str
    tag: str
    object_ids: list[str]
    annotation_ids: list[str]

    @property
    def key(self) -> str:
        """Its name in metrics.json."""
        return f"{self.video}/{self.id}"


@dataclass(frozen=True)
class AnnotatedVideo:
    """A video with its expressions and ground truth.

    Attributes:
        frames: names, in order.
        objects: annotation id to one RLE or None a frame; empty without ground truth.
        size: (H, W), None where only the frames themselves would tell.
    """

    id: str
    frames: list[str]
    expressions: list[ExpressionRef]
    objects: dict[str, list[RLE | None]]
    size: tuple[int, int] | None

    @property
    def annotated_size(self) -> tuple[int, int] | None:
        """(H, W) as known, or that of the masks."""
        masks = (rle for rles in self.objects.values() for rle in rles if rle is not None)
        first = next(masks, None)
        if self.size is None and first is not None:
            return first["size"][0], first["size"][1]
        return self.size
