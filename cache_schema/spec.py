"""The one spec of the layout: every dataset's name, symbolic shape and dtype, format version 3.

Writer, reader and verify all go by these tables. Symbols are bound per video, so that arrays that
share a letter must share a length: T frames, N_f frame queries, N_v video queries, C channels of
the queries, C_mask of the mask embeddings, R of a low-rank code, K1 classes with "no object",
K clips of T_c frames, O objects, S arrays that have a checksum for each of their rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

FORMAT_VERSION = 3
# Stands for the dtype of features: float16, but float32 under the codec 'float32'.
QUERY = "query"


@dataclass(frozen=True)
class Spec:
    """Symbolic shape and dtype of a dataset; the axis of a letter after "?" may be missing."""

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
        symbols = [str(symbol) for symbol in self.shape]
        if len(shape) < len(symbols):
            symbols = [symbol for symbol in symbols if not symbol.startswith("?")]
        symbols = [symbol.removeprefix("?") for symbol in symbols]
        if len(shape) != len(symbols) or any(
            length != (int(symbol) if symbol.isdigit() else dims.get(symbol, length))
            for symbol, length in zip(symbols, shape, strict=True)
        ):
            expected = ", ".join(f"{s}={dims[s]}" if s in dims else s for s in symbols)
            raise ValueError(f"{name} has the shape {tuple(shape)} instead of ({expected})")
        dims.update((s, n) for s, n in zip(symbols, shape, strict=True) if not s.isdigit())


# Of the whole video, under /videos/<id>. The first is written frame by frame, as are the codec's
# arrays in mask_features/; both have chunks of one frame. The rest are contiguous.
FRAME_QUERIES = Spec(("T", "N_f", "C"), QUERY)
VIDEO = {
    "frame_times": Spec(("T",), "int32"),
    "video_queries": Spec(("N_v", "C"), QUERY),
    "video_logits": Spec(("N_v", "K1"), "float32"),
    "video_mask_embeds": Spec(("?T", "N_v", "C_mask"), QUERY),
    "tracks": Spec(("N_v", "T", 6), "float16"),
    "overlaps": Spec(("N_v", "O"), "float16"),
}
# The clip bank, under clips/; the group is empty when there are no clips.
CLIPS = {
    "frame_indices": Spec(("K", "T_c"), "int32"),
    "video_queries": Spec(("K", "N_v", "C"), QUERY),
    "video_logits": Spec(("K", "N_v", "K1"), "float32"),
    "tracks": Spec(("K", "N_v", "T_c", 6), "float16"),
    "mask_embeds": Spec(("K", "?T_c", "N_v", "C_mask"), QUERY),
    "overlaps": Spec(("K", "N_v", "O"), "float16"),
}
# Of the two tables, what a video may lack.
OPTIONAL = {"overlaps", "mask_embeds"}
# CRC-32 of each row: checksums of the arrays with chunks of one frame, clips/checksums of the clip
# bank's; a column for each array, by their names.
CHECKSUMS = {
    "checksums": Spec(("T", "S"), "uint32"),
    "clips/checksums": Spec(("K", "S_c"), "uint32"),
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
# Of the whole shard, under /segmenter/mask_head/<i>: the linear layers of a mask head, if there.
LAYER = {"weight": Spec(("out", "in"), "float32"), "bias": Spec(("out",), "float32")}
# Masks of an object or a video query, objects/<id> and segmenter_masks/<n>: UTF-8 JSON, a list with
# one RLE or null a frame.
MASKS = Spec(("bytes",), "uint8")
