"""The segmenter's own masks of a full cache, in NumPy, for a light copy of it.

Bilinear from the feature map to the padded size, cut to the resized one, bilinear to the original
one, logit above 0. Replay does so in torch, which may round a logit beside 0 to the other side.
"""

import numpy as np

from cache_schema.codecs import Codec
from cache_schema.records import RLE
from cache_schema.run_lengths import compress
from cache_schema.video import Video


def own_masks(video: Video, codec: Codec) -> dict[int, list[RLE | None]]:
    """The masks of all video queries, one RLE or None (an empty mask) a frame.

    Args:
        video: of a full cache.
        codec: of the cache.
    """
    embeds, g = video.video_mask_embeds(), video.geometry
    heights = g.padded_height, g.resized_height, g.height
    widths = g.padded_width, g.resized_width, g.width
    rows, columns = (
        _bilinear(resized, original) @ _bilinear(padded // g.stride, padded)[:resized]
        for padded, resized, original in (heights, widths)
    )
    found: dict[int, list[RLE | None]] = {n: [] for n in range(embeds.shape[-2])}
    for t in range(video.num_frames):
        own = embeds if embeds.ndim == 2 else embeds[t]
        for n, logits in enumerate(codec.mask_logits(video.mask_features([t]), own)[0]):
            mask = rows @ logits @ columns.T > 0  # (H, h) @ (h, w) @ (w, W)
            rle = {"size": [g.height, g.width], "counts": compress(mask)} if mask.any() else None
            found[n].append(rle)
    return found


def _bilinear(old: int, new: int) -> np.ndarray:
    """What takes a line of old values to new ones, (new, old) float32; corners not aligned."""
    places = np.clip((np.arange(new) + 0.5) * (old / new) - 0.5, 0, old - 1)
    before = np.minimum(places.astype(int), max(old - 2, 0))
    weights = np.zeros((new, old))
    weights[np.arange(new), before] = 1 - (places - before)
    weights[np.arange(new), np.minimum(before + 1, old - 1)] += places - before
    return weights.astype(np.float32)
