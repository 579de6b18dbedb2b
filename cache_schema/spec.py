"""The one spec of the layout: every dataset's name, symbolic shape and dtype, format version 2.

Writer, reader and verify all go by these tables. Symbols are bound per video, so that arrays that
share a letter must share a length: T frames, N_f frame queries, N_v video queries, C channels of
the queries, C_mask of the mask embeddings, R of a low-rank code, K1 classes with "no object",
K clips of T_c frames.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

FORMAT_VERSION = 2
# Stands for the dtype of features: float16, but float32 under the codec 'float32'.
QUERY = "query"


@dataclass(frozen=True)
class Spec:
    """Symbolic shape and dtype of a dataset."""

    shape: tuple[str | int, ...]
    dtype: str

    def resolve(self, query_dtype: np.dtype) -> np.dtype:
        """The dtype on disk: little-endian whatever the machine."""
        dtype = query_dtype if self.dtype == QUERY else np.dtype(self.dtype)
        return dtype.newbyteorder("<")

    def bind(self, name: str, shape: Sequence[int], dims: dict[str, int]) -> None:
        """Bind the symbols of this shape in ``dims``, or check them where they are bound.

        Raises:
            ValueError: the shape does not fit; names what was expected.
        """
        fits = len(shape) == len(self.shape) and all(
            dims.get(symbol, length) == length if isinstance(symbol, str) else symbol == length
            for symbol, length in zip(self.shape, shape, strict=True)
        )
        if not fits:
            expected = ", ".join(
                f"{s}={dims[s]}" if isinstance(s, str) and s in dims else str(s) for s in self.shape
            )
            raise ValueError(f"{name} has the shape {tuple(shape)} instead of ({expected})")
        dims.update(
            (symbol, length)
            for symbol, length in zip(self.shape, shape, strict=True)
            if isinstance(symbol, str)
        )


# Of the whole video, under /videos/<id>. The first is written frame by frame, as are the codec's
# arrays in mask_features/; both have chunks of one frame. The rest are contiguous.
FRAME_QUERIES = Spec(("T", "N_f", "C"), QUERY)
VIDEO = {
    "video_queries": Spec(("N_v", "C"), QUERY),
    "video_logits": Spec(("N_v", "K1"), "float32"),
    "video_mask_embeds": Spec(("N_v", "C_mask"), QUERY),
    "tracks": Spec(("N_v", "T", 6), "float16"),
}
# The clip bank, under clips/; the group is empty when there are no clips.
CLIPS = {
    "frame_indices": Spec(("K", "T_c"), "int32"),
    "video_queries": Spec(("K", "N_v", "C"), QUERY),
    "video_logits": Spec(("K", "N_v", "K1"), "float32"),
    "tracks": Spec(("K", "N_v", "T_c", 6), "float16"),
}
# Of one sentence, under expressions/<id>.
EXPRESSION = {
    "words": Spec(("K_w", "C_text"), QUERY),
    "sentence": Spec(("C_text",), QUERY),
    "static": Spec(("K_w",), "bool"),
    "motion": Spec(("K_w",), "bool"),
    "offsets": Spec(("K_w", 2), "int32"),
}
# Of the whole shard, under /codec: the basis of a low-rank codec; the group is empty without one.
BASIS = {
    "mean": Spec(("C_mask",), "float32"),
    "encoder": Spec(("C_mask", "R"), "float32"),
    "decoder": Spec(("R", "C_mask"), "float32"),
}
# Of one object, objects/<id>: UTF-8 JSON, a list with one RLE or null a frame.
OBJECT = Spec(("bytes",), "uint8")
