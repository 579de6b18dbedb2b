"""What a cache holds, as plain records of NumPy arrays. Letters as everywhere: T N_v K_w C."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from cache_schema.host.cli import InputError

# One object mask in COCO's compressed run-length form: {"size": [H, W], "counts": str}.
RLE = dict[str, Any]
ACTIVATIONS = ("relu", "gelu")


def sha256(arrays: Iterable[np.ndarray]) -> str:
    """Hex digest of arrays as little-endian float32, one after the other."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array, "<f4"))
    return digest.hexdigest()


@dataclass(frozen=True)
class Facts:
    """What a data set says of itself.

    Attributes:
        one_object: an expression means exactly one object; None where nobody knows, as in old
            caches of unknown data sets.
        protocol: how it is scored: expression by expression, or as DAVIS scores.
        has_text: it has expressions.
        release: which it is, where there are several, such as "v1"; empty where nobody knows.
    """

    one_object: bool | None
    protocol: Literal["expressions", "davis"]
    has_text: bool
    release: str = ""


@dataclass(frozen=True, eq=False)
class SegmenterFacts:
    """What the frozen segmenter says of itself.

    Attributes:
        type: its name in configs.
        identity: frame query n of one frame continues as n in the next.
        mask_head: weight (out, in) and bias (out,), float32, of each linear layer of its own mask
            head, the first one first. Empty without one.
        activation: what stands between two of these layers, one of `ACTIVATIONS`.
    """

    type: str
    identity: bool
    mask_head: tuple[tuple[np.ndarray, np.ndarray], ...] = ()
    activation: str = "relu"

    def describe(self) -> dict[str, Any]:
        """The same as plain JSON, the mask head by its digest."""
        arrays = [array for layer in self.mask_head for array in layer]
        digest = sha256(arrays) if arrays else None
        described = {"type": self.type, "identity": self.identity, "mask_head_sha256": digest}
        # Shards name only another one than the first had.
        return described | ({} if self.activation == "relu" else {"activation": self.activation})


@dataclass(frozen=True)
class Geometry:
    """How a video's frames became the network's input, in pixels.

    The original frame is resized, then padded with zeros on the right and at the bottom; one cell
    of the mask features covers ``stride`` x ``stride`` pixels of the padded frame.
    """

    height: int
    width: int
    resized_height: int
    resized_width: int
    padded_height: int
    padded_width: int
    stride: int


@dataclass(frozen=True)
class CodecIoU:
    """What a codec costs a video: IoU of the segmenter's own masks, coded against exact.

    Attributes:
        masks: how many were compared, at least one.
    """

    mean: float
    worst: float
    masks: int

    @classmethod
    def over(cls, costs: Iterable["CodecIoU | None"]) -> "CodecIoU | None":
        """Over all videos that measured it; None if none did."""
        known = [cost for cost in costs if cost]
        masks = sum(cost.masks for cost in known)
        if not masks:
            return None
        mean = sum(cost.mean * cost.masks for cost in known) / masks
        return cls(mean, min(cost.worst for cost in known), masks)


@dataclass
class Clip:
    """What the frozen segmenter says of some frames of a video, seen together.

    Attributes:
        frame_indices: (T_c,) int32, indices into the video's frames.
        video_queries: (N_v, C) of the codec's query dtype.
        video_logits: (N_v, K+1) float32, the last column is "no object".
        tracks: (N_v, T_c, 6) float16; centre x, y, width, height, area fraction, probability.
        mask_embeds: (N_v, C_mask), or (T_c, N_v, C_mask) where they change from frame to frame; of
            the codec's query dtype. None in caches of older versions.
        overlaps: (N_v, O) float16, IoU of each query's mask with each object's over all frames of
            the clip together. None without objects, and in caches of older versions.
    """

    frame_indices: np.ndarray
    video_queries: np.ndarray
    video_logits: np.ndarray
    tracks: np.ndarray
    mask_embeds: np.ndarray | None = None
    overlaps: np.ndarray | None = None


@dataclass
class Expression:
    """One sentence about a video, already encoded by the frozen text side.

    Attributes:
        expression_id: its id, unique within the video.
        object_ids: ids of the objects it means; empty without a target.
        annotation_ids: keys of the video's objects whose masks make the ground truth.
        tag: what the sentence needs ('static', 'reversible', ...), '' when unknown.
        words: (K_w, C_text) of the codec's query dtype.
        sentence: (C_text,) of the codec's query dtype.
        static: (K_w,) bool, marks static cues.
        motion: (K_w,) bool, marks motion cues.
        offsets: (K_w, 2) int32, character span of each word in the lower-cased ``text`` with its
            white space folded.
    """

    expression_id: str
    text: str
    object_ids: list[str]
    annotation_ids: list[str]
    tag: str
    words: np.ndarray
    sentence: np.ndarray
    static: np.ndarray
    motion: np.ndarray
    offsets: np.ndarray


def pack(rles: list[RLE | None], geometry: Geometry, num_frames: int) -> np.ndarray:
    """One object's masks as a one-dimensional uint8 array.

    Raises:
        InputError: not one mask a frame, or a mask of another size than the original frames.
    """
    rows = [None if rle is None else _row(rle) for rle in rles]
    _check(rows, geometry, num_frames)
    return np.frombuffer(json.dumps(rows, separators=(",", ":")).encode(), np.uint8)


def unpack(data: np.ndarray, geometry: Geometry, num_frames: int) -> list[RLE | None]:
    """The masks back from `pack`, checked in the same way."""
    try:
        rows = json.loads(data.tobytes())
    except (ValueError, RecursionError):
        raise InputError("its masks are not JSON") from None
    _check(rows, geometry, num_frames)
    return rows


def _row(rle: RLE) -> Any:
    # pycocotools gives the counts as bytes; they are ASCII by construction.
    counts = rle.get("counts")
    counts = counts.decode("ascii", "replace") if isinstance(counts, bytes) else counts
    return {"size": [int(n) for n in rle.get("size", ())], "counts": counts}


def _check(rows: Any, geometry: Geometry, num_frames: int) -> None:
    if not isinstance(rows, list) or len(rows) != num_frames:
        found = f"{len(rows)} masks" if isinstance(rows, list) else "no list of masks"
        raise InputError(f"it has {found} for {num_frames} frames")
    size = [geometry.height, geometry.width]
    for frame, row in enumerate(rows):
        if row is None:
            continue
        if not isinstance(row, dict) or not isinstance(row.get("counts"), str):
            raise InputError(f"its mask of frame {frame} is not a compressed COCO RLE")
        if row.get("size") != size:
            raise InputError(
                f"its mask of frame {frame} has the size {row.get('size')}, the video {size}"
            )
