"""Replay: masks from the cached mask features and a few embeddings, frame by frame.

Eq. (10), M = F_mask . H_m(Q'_m), is computed in the coded space of the cache; then VITA's way to
pixels: bilinear to the padded size, crop to the resized one, bilinear to the original one, logit
above 0. Only one frame is held at a time, so memory does not grow with the length of the video.
Shapes and order of operations are those of stage one, so VITA's masks come out to the same bits.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from cache_schema.codecs import Codec
from cache_schema.reader import Video
from cache_schema.records import Geometry
from train.mask_logits import mask_logits

CHUNK = 16  # of VITA's masks that are brought to the original size at once


def keep(scores: np.ndarray, *, rule: str, sigma: float) -> np.ndarray:
    """Which queries make the final mask (section 3.3 of the paper).

    Args:
        scores: (N_m,) probabilities.
        rule: ``threshold`` keeps every query above sigma (MeViS: several objects or none);
            ``top1`` the best one (data sets with one object an expression).

    Returns:
        Indices of the kept queries.
    """
    if rule == "top1":
        return np.array([scores.argmax()])
    return np.flatnonzero(scores > sigma)


def to_original(logits: Tensor, geometry: Geometry) -> Tensor:
    """Mask logits (N, h, w) to the video's original size: (N, H, W)."""
    g = geometry
    maps = _resize(logits[:, None], (g.padded_height, g.padded_width))  # (N, 1, ., .)
    maps = _resize(maps[..., : g.resized_height, : g.resized_width], (g.height, g.width))
    return maps[:, 0]


def _resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    if maps.shape[-2:] == size:
        return maps
    return functional.interpolate(maps, size=size, mode="bilinear", align_corners=False)


def _frame_logits(video: Video, t: int, embeds: Tensor, codec: Codec) -> Tensor:
    """Mask logits of frame t: (N, h, w) on the device of the embeddings (N, C)."""
    return mask_logits(video.mask_features([t]), embeds, codec=codec)[0]


def replay(
    video: Video,
    groups: Sequence[np.ndarray],
    *,
    codec: Codec,
    device: torch.device | str = "cpu",
) -> Iterator[np.ndarray]:
    """Final masks of several expressions, one frame after the other.

    Args:
        video: of the cache.
        groups: for each of G expressions the mask embeddings of its kept queries, (N, C); an
            expression with none gets an empty mask.
        codec: of the cache.
        device: where the masks are computed.

    Yields:
        (G, H, W) bool, the union over each expression's queries; T times.
    """
    counts = [len(group) for group in groups]
    union = np.zeros((len(groups), video.geometry.height, video.geometry.width), bool)
    kept = [group for group in groups if len(group)]
    embeds = torch.from_numpy(np.concatenate(kept)).float().to(device) if kept else None
    for t in range(video.num_frames):
        if embeds is not None:
            logits = _frame_logits(video, t, embeds, codec).split(counts)  # G of (N, h, w)
            for mask, part in zip(union, logits, strict=True):
                if len(part):
                    # Some query's logit is above 0 where the largest is.
                    mask[:] = (to_original(part, video.geometry).amax(0) > 0).cpu().numpy()
        yield union.copy()


def vita_masks(
    video: Video, *, codec: Codec, device: torch.device | str = "cpu"
) -> Iterator[np.ndarray]:
    """VITA's own masks, from the cached video queries' mask embeddings.

    Yields:
        (N_v, H, W) bool for each of the T frames.
    """
    embeds = torch.from_numpy(video.video_mask_embeds()).float().to(device)
    for t in range(video.num_frames):
        parts = _frame_logits(video, t, embeds, codec).split(CHUNK)
        masks = [(to_original(part, video.geometry) > 0).cpu().numpy() for part in parts]
        yield np.concatenate(masks)
