"""What heads say of the expressions of whole videos: scores and mask embeddings, no masks yet.

The video's part is read and moved to the device once, and goes through a head with many
expressions at a time; several heads share it.
"""

import zlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch

from cache_schema.host.cli import InputError
from cache_schema.reader import CacheReader
from cache_schema.records import Expression
from train.data import video_batch
from train.heads import Head, HeadInputs
from train.records import ExpressionRef

BATCH = 16  # expressions of one video that go through a head together


def read_expression(reader: CacheReader, expression: ExpressionRef) -> Expression:
    """The features of an expression."""
    return reader.video(expression.video).expression(expression.id, offsets=False)


@torch.no_grad()
def predict_video(
    reader: CacheReader,
    heads: Mapping[str, Head],
    video_id: str,
    texts: Sequence[Expression],
    *,
    device: torch.device | str,
    shuffle_frames: bool = False,
) -> Iterator[tuple[str, int, np.ndarray, np.ndarray]]:
    """What each head says of each expression in a whole video.

    Numbers do not depend on how many heads there are.

    Args:
        video_id: the video.
        texts: E expressions, not necessarily the video's own.
        shuffle_frames: exchange the frames among their times, in an order that the video's id
            decides: the control for what is owed to the order of frames.

    Yields:
        The head's name, the expression's index, its scores (N_m,) float32 after the sigmoid and
        mask embeddings (N_m, C) float32 or, of a head that draws none, the video queries (N_m,)
        int64 that it scores; E of every head, the expressions of a head in order.

    Raises:
        InputError: a head says what is no number.
    """
    reads = {name for head in heads.values() for name in head.reads}
    inputs = video_batch(reader.video(video_id), texts, reads)
    if shuffle_frames:
        inputs = _shuffled(inputs, seed=zlib.crc32(video_id.encode()))
    inputs = _to(inputs, device)
    for start in range(0, len(texts), BATCH):
        part = {name: tensor[start : start + BATCH] for name, tensor in inputs.present().items()}
        for name, head in heads.items():
            output = head(HeadInputs.of(part))[-1]
            scores = output.logits.float().sigmoid().cpu().numpy()  # (B, N_m)
            drawn = output.mask_embeds
            queries = output.sources if drawn is None else drawn.float()
            queries = queries.cpu().numpy()  # (B, N_m) or (B, N_m, C)
            if not (np.isfinite(scores).all() and np.isfinite(queries).all()):
                raise InputError(
                    f"{name or 'the head'} says NaN or infinite values of video {video_id}; look "
                    "at its training, and leave it out until then"
                )
            for b in range(len(scores)):
                yield name, start + b, scores[b], queries[b]


def _shuffled(inputs: HeadInputs, *, seed: int) -> HeadInputs:
    """Other frames at the same times; what the segmenter said of the whole video stays."""
    present = inputs.present()
    order = torch.randperm(
        inputs.frame_mask.shape[1], generator=torch.Generator().manual_seed(seed)
    )
    for name, dim in (("frame_queries", 1), ("tracks", 2)):
        if name in present:  # once, though it looks repeated for every expression
            present[name] = present[name][:1].index_select(dim, order).expand_as(present[name])
    return HeadInputs.of(present)


def _to(inputs: HeadInputs, device: torch.device | str) -> HeadInputs:
    """On another device; what only looks repeated for every expression is copied once."""
    moved = {}
    for name, tensor in inputs.present().items():
        once = len(tensor) > 1 and tensor.stride(0) == 0
        moved[name] = tensor[:1].to(device).expand_as(tensor) if once else tensor.to(device)
    return HeadInputs.of(moved)
