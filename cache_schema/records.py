"""What a cache holds, as plain records of NumPy arrays. Letters as everywhere: T N_v K_w C."""

from dataclasses import dataclass
from typing import Any

import numpy as np

# One object mask in COCO's compressed run-length form: {"size": [H, W], "counts": str}.
RLE = dict[str, Any]


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
        mean: over the masks.
        worst: of the masks.
        masks: how many were compared, at least one.
    """

    mean: float
    worst: float
    masks: int


@dataclass
class Clip:
    """What the frozen segmenter says of some frames of a video, seen together.

    Attributes:
        frame_indices: (T_c,) int32, indices into the video's frames.
        video_queries: (N_v, C) of the codec's query dtype.
        video_logits: (N_v, K+1) float32, the last column is "no object".
        tracks: (N_v, T_c, 6) float16; centre x, y, width, height, area fraction, probability.
    """

    frame_indices: np.ndarray
    video_queries: np.ndarray
    video_logits: np.ndarray
    tracks: np.ndarray


@dataclass
class Expression:
    """One sentence about a video, already encoded by the frozen text side.

    Attributes:
        expression_id: its id, unique within the video.
        text: the sentence as it came.
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
