"""Frame queries as attention keys: all at once for training, some frames at a time without.

A video of 300 frames has 30,000 frame queries. Without gradients nothing of them has to be kept,
so attention goes over them in chunks and takes the memory of one.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from train.heads.parts.attention import Attention

#: Frames that are read at once when no gradient is kept; videos up to this are not cut.
CHUNK_FRAMES = 32


def read_frames(
    attention: Attention,
    queries: Tensor,
    frame_queries: Tensor,
    frame_mask: Tensor,
    *,
    enhance: Callable[[Tensor], Tensor] | None = None,
    chunk_frames: int = CHUNK_FRAMES,
) -> Tensor:
    """Let queries read the frame queries of a video of any length.

    Args:
        attention: how.
        queries: (B, Q, C).
        frame_queries: Q_f, (B, T, N_f, C).
        frame_mask: (B, T) bool, True for real frames, at least one a row.
        enhance: what is done to the keys (B, n, C) before, each for itself.
        chunk_frames: frames in memory at once where no gradient is kept.

    Returns:
        (B, Q, C).
    """
    if torch.is_grad_enabled() or frame_queries.shape[1] <= chunk_frames:
        keys, mask = _flat(frame_queries, frame_mask)
        return attention(queries, enhance(keys) if enhance else keys, mask)
    pairs = zip(
        frame_queries.split(chunk_frames, dim=1), frame_mask.split(chunk_frames, dim=1), strict=True
    )
    chunks = (_flat(*pair) for pair in pairs)
    if enhance:
        chunks = ((enhance(keys), mask) for keys, mask in chunks)
    return attention.over_chunks(queries, chunks)


def _flat(frame_queries: Tensor, frame_mask: Tensor) -> tuple[Tensor, Tensor]:
    """(B, T, N_f, C) and (B, T) to keys (B, T * N_f, C) and their mask (B, T * N_f)."""
    mask = frame_mask[:, :, None].expand(frame_queries.shape[:3])
    return frame_queries.flatten(1, 2), mask.flatten(1)
