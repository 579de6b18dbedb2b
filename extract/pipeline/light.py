"""Caches without mask features: where these are until a video has ended, and masks they make."""

import os
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from cache_schema.host.cores import SPARE_THREADS
from cache_schema.records import RLE, Geometry
from extract.datasets.records import encode_mask
from extract.segmenters.base import best_queries
from extract.segmenters.masks import mask_logits, to_original

#: Masks that are brought to the original size together.
TOGETHER = 16


class Spilled:
    """Exact mask features of a video, in a file without a name that goes when this goes.

    Args:
        folder: on a disk with room for 4 * C_mask * h * w bytes a frame.
    """

    def __init__(self, folder: Path) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - it goes when this goes
        self._shape: tuple[int, ...] = ()

    def append(self, features: np.ndarray) -> None:
        """The next frames, (t, C_mask, h, w) float32."""
        self._shape = features.shape[1:]
        self._file.write(np.ascontiguousarray(features))
        self._file.flush()

    def __call__(self, t: int) -> dict[str, np.ndarray]:
        """Frame t as codec ``float32`` codes it, with a leading axis of 1; from any thread."""
        frame = np.empty((1, *self._shape), np.float32)
        os.preadv(self._file.fileno(), [frame], t * frame.nbytes)
        return {"values": frame}


def segmenter_masks(
    features: Callable[[int], Mapping[str, np.ndarray]],
    num_frames: int,
    embeds: np.ndarray,
    logits: np.ndarray,
    geometry: Geometry,
    keep: int | None,
) -> dict[int, list[RLE | None]]:
    """The segmenter's own masks as replay makes them, at the original size.

    Args:
        features: of frame t, see `Spilled`.
        num_frames: T.
        embeds: (N_v, C_mask), or (T, N_v, C_mask).
        logits: (N_v, K+1), which tell the best queries.
        keep: how many queries; None keeps all.

    Returns:
        Video query -> a mask a frame, None where it is empty.
    """
    best = best_queries(torch.from_numpy(logits), keep)

    def masks(t: int) -> list[RLE | None]:
        frame = torch.from_numpy(features(t)["values"])
        own = torch.from_numpy(embeds if embeds.ndim == 2 else embeds[t])
        maps = mask_logits(frame, own)[0][best]  # (keep, h, w), with the bits of all together
        inside = [mask for some in maps.split(TOGETHER) for mask in to_original(some, geometry) > 0]
        return [encode_mask(mask.numpy()) if mask.any() else None for mask in inside]

    with ThreadPoolExecutor(SPARE_THREADS) as pool:
        frames = list(pool.map(masks, range(num_frames)))
    return dict(zip(best.tolist(), map(list, zip(*frames, strict=True)), strict=True))
