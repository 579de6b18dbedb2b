"""Masks from mask features and embeddings: logits, back to the original size, and tracks."""

import torch
from torch import Tensor
from torch.nn import functional as F

from cache_schema.records import Geometry

# Cells whose logits and what comes of them fit a processor's cache; more at a time are slower.
CACHED_CELLS = 1 << 18


def mask_logits(features: Tensor, embeds: Tensor) -> Tensor:
    """Mask logits, one matrix product a frame.

    A product a frame, and no product over all frames, so that a frame's logits do not depend on
    which frames are asked for with it, and whoever repeats this gets the same bits.

    Args:
        features: F_mask, (t, C, h, w).
        embeds: (N, C).

    Returns:
        (t, N, h, w).
    """
    height, width = features.shape[-2:]
    frames = [embeds @ frame.flatten(1) for frame in features]  # (N, h*w) each
    return torch.stack(frames).unflatten(-1, (height, width))  # (t, N, h, w)


def to_original(logits: Tensor, geometry: Geometry) -> Tensor:
    """Logits at the size of the original frames; a pixel is inside where its logit is above 0.

    As the reference does: bilinear to the padded size, cut the padding off, bilinear to the
    original size.

    Args:
        logits: (..., h, w).

    Returns:
        (..., H, W).
    """
    maps = logits.reshape(-1, 1, *logits.shape[-2:])  # (M, 1, h, w)
    padded = (geometry.padded_height, geometry.padded_width)
    maps = F.interpolate(maps, size=padded, mode="bilinear", align_corners=False)
    maps = maps[..., : geometry.resized_height, : geometry.resized_width]
    original = (geometry.height, geometry.width)
    if maps.shape[-2:] != original:
        maps = F.interpolate(maps, size=original, mode="bilinear", align_corners=False)
    return maps.reshape(*logits.shape[:-2], *original)  # (..., H, W)


def tracks(logits: Tensor, geometry: Geometry) -> Tensor:
    """Where each query's mask is in each frame, measured on the feature map without its padding.

    Args:
        logits: (T, N, h, w).

    Returns:
        (N, T, 6) float16: centre x, centre y, width and height of the bounding box, as fractions
        of the image; the fraction of the image inside the mask; the mean probability inside the
        mask. All zero where the mask is empty.
    """
    frames, queries = logits.shape[:2]
    # Cells whose centre lies on the image; at least one.
    rows = max(round(geometry.resized_height / geometry.stride), 1)
    columns = max(round(geometry.resized_width / geometry.stride), 1)
    masks = logits[..., :rows, :columns].flatten(0, 1)  # (T*N, rows, columns)
    cells = CACHED_CELLS if masks.device.type == "cpu" else masks.numel()
    parts = masks.split(max(cells // (rows * columns), 1))
    values = torch.cat([_measure(part.float()) for part in parts])  # (T*N, 6)
    return values.view(frames, queries, 6).transpose(0, 1).contiguous().half()  # (N, T, 6)


def _measure(logits: Tensor) -> Tensor:
    """The six numbers of `tracks` for each of M masks: (M, rows, columns) -> (M, 6) float32."""
    rows, columns = logits.shape[-2:]
    # 1 inside and 0 outside, never as bool: on a processor numbers are several times faster.
    inside = logits.sign().clamp_(min=0)
    across = inside.sum(-2)  # (M, columns): cells of the mask in each column
    area = across.sum(-1)  # (M,)
    probability = logits.sigmoid().mul_(inside).flatten(1).sum(-1) / area.clamp(min=1)
    left, right = _extent(across > 0)
    top, bottom = _extent(inside.amax(-1) > 0)
    values = torch.stack(
        [
            (left + right) / (2 * columns),
            (top + bottom) / (2 * rows),
            (right - left) / columns,
            (bottom - top) / rows,
            area / (rows * columns),
            probability,
        ],
        dim=-1,
    )
    return torch.where((area > 0).unsqueeze(-1), values, 0.0)


def _extent(line: Tensor) -> tuple[Tensor, Tensor]:
    """First index inside, and one past the last, of (..., n) bool; (0, n) where there is none."""
    length = line.shape[-1]
    first = line.byte().argmax(-1)
    last = length - line.flip(-1).byte().argmax(-1)
    return first, last
