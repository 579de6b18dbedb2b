"""Replay: masks from the cached mask features and a few embeddings, frame by frame.

Eq. (10), M = F_mask . H_m(Q'_m), is computed in the coded space of the cache; then VITA's way to
pixels: bilinear to the padded size, crop to the resized one, bilinear to the original one, logit
above 0. Only one frame is held at a time, so memory does not grow with the length of the video.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from cache_schema.reader import Video
from cache_schema.records import Geometry
from torch import Tensor
from torch.nn import functional

from train.mask_logits import mask_logits

CHUNK = 16  # masks brought to the original size at once


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
    x = logits[None]  # (1, N, h, w)
    x = _resize(x, (g.padded_height, g.padded_width))
    x = x[..., : g.resized_height, : g.resized_width]
    return _resize(x, (g.height, g.width))[0]


def _resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    return functional.interpolate(x, size=size, mode="bilinear", align_corners=False)


@torch.no_grad()
def _frame_masks(video: Video, t: int, embeds: Tensor, codec: str) -> Tensor:
    """Masks of frame t: (N, H, W) bool on the device of the embeddings (N, C)."""
    logits = mask_logits(video.mask_features([t]), embeds, codec=codec)[0]  # (N, h, w)
    masks = [to_original(part, video.geometry) > 0 for part in logits.split(CHUNK)]
    return torch.cat(masks)


def replay(
    video: Video,
    groups: Sequence[np.ndarray],
    *,
    codec: str,
    device: torch.device | str = "cpu",
) -> Iterator[np.ndarray]:
    """Final masks of several expressions, one frame after the other.

    Args:
        video: of the cache.
        groups: for each of G expressions the mask embeddings of its kept queries, (N, C); an
            expression with none gets an empty mask.
        codec: name of the cache's codec.
        device: where the masks are computed.

    Yields:
        (G, H, W) bool, the union over each expression's queries; T times.
    """
    counts = [len(group) for group in groups]
    size = (video.geometry.height, video.geometry.width)
    if not sum(counts):
        for _ in range(video.num_frames):
            yield np.zeros((len(groups), *size), bool)
        return
    embeds = torch.from_numpy(np.concatenate([g for g in groups if len(g)])).float().to(device)
    for t in range(video.num_frames):
        masks = _frame_masks(video, t, embeds, codec)
        union = [part.any(0) for part in masks.split(counts)]  # an empty part has no true pixel
        yield torch.stack(union).cpu().numpy()


def vita_masks(
    video: Video, *, codec: str, device: torch.device | str = "cpu"
) -> Iterator[np.ndarray]:
    """VITA's own masks, from the cached video queries' mask embeddings.

    Yields:
        (N_v, H, W) bool for each of the T frames.
    """
    embeds = torch.from_numpy(video.video_mask_embeds()).float().to(device)
    for t in range(video.num_frames):
        yield _frame_masks(video, t, embeds, codec).cpu().numpy()
