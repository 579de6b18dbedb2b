"""Masks from mask features and embeddings: logits, back to the original size, what they show."""

from collections.abc import Mapping

import cv2
import numpy as np
import torch
from pycocotools import mask as coco
from torch import Tensor
from torch.nn import functional as F

from cache_schema.records import RLE, Geometry

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


def measure(
    logits: Tensor, geometry: Geometry, objects: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Where each query's mask is in each frame, measured on the feature map without its padding.

    Args:
        logits: (T, N, h, w).
        objects: (T, O, rows, columns), see `object_cells`; none by default.

    Returns:
        (N, T, 6) float16: centre x, centre y, width and height of the bounding box, as fractions
        of the image; the fraction of the image inside the mask; the mean probability inside the
        mask. All zero where the mask is empty.
        (T, N) float32, cells of each mask; (T, N, O), those that it shares with each object.
    """
    frames, queries = logits.shape[:2]
    rows, columns = cells_of(geometry)
    masks = logits[..., :rows, :columns].contiguous()  # (T, N, rows, columns)
    if objects is None:
        objects = masks.new_zeros(frames, 0, rows, columns)
    parts = [(masks, objects.float())]
    if masks.device.type == "cpu":
        some = max(CACHED_CELLS // (rows * columns), 1)
        parts = [
            (part[None], cells[None].float())
            for frame, cells in zip(masks, objects, strict=True)
            for part in frame.split(some)
        ]
    measured = [_measure(part.float(), cells) for part, cells in parts]
    values, areas, shared = (
        torch.cat([each.flatten(0, 1) for each in kind]).unflatten(0, (frames, queries))
        for kind in zip(*measured, strict=True)
    )  # (T, N, ...)
    return values.transpose(0, 1).contiguous().half(), areas, shared


def _measure(logits: Tensor, objects: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of masks (t, n, rows, columns): (t, n, 6) and (t, n) as in `measure`, (t, n, O) shared."""
    rows, columns = logits.shape[-2:]
    # 1 inside and 0 outside, never as bool: on a processor numbers are several times faster.
    inside = logits.sign().clamp_(min=0)
    across = inside.sum(-2)  # (t, n, columns): cells of the mask in each column
    area = across.sum(-1)  # (t, n)
    probability = logits.sigmoid().mul_(inside).flatten(2).sum(-1) / area.clamp(min=1)
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
    shared = inside.flatten(2) @ objects.flatten(2).transpose(1, 2)
    return torch.where((area > 0).unsqueeze(-1), values, 0.0), area, shared


def _extent(line: Tensor) -> tuple[Tensor, Tensor]:
    """First index inside, and one past the last, of (..., n) bool; (0, n) where there is none."""
    length = line.shape[-1]
    first = line.byte().argmax(-1)
    last = length - line.flip(-1).byte().argmax(-1)
    return first, last


def cells_of(geometry: Geometry) -> tuple[int, int]:
    """Rows and columns of the feature map whose cells' centres lie on the image; at least one."""
    sides = geometry.resized_height, geometry.resized_width
    return tuple(max(round(side / geometry.stride), 1) for side in sides)


def object_cells(objects: Mapping[str, list[RLE | None]], geometry: Geometry) -> np.ndarray | None:
    """How much of each cell of the feature map lies inside of each object.

    Args:
        objects: one RLE or None a frame, at the original size.

    Returns:
        (T, O, rows, columns) float16, 0 to 1, for the cells of `cells_of`; None without objects.
    """
    if not objects:
        return None
    shape = cells_of(geometry)
    sides = (geometry.height, geometry.resized_height), (geometry.width, geometry.resized_width)
    # Cells cut the original frame at these places, in pixels.
    cuts = [
        np.minimum(np.arange(cells + 1) * geometry.stride, resized) * (side / resized)
        for (side, resized), cells in zip(sides, shape, strict=True)
    ]
    areas = np.outer(*(np.diff(cut) for cut in cuts))
    frames = len(next(iter(objects.values())))
    made = np.zeros((frames, len(objects), *shape), np.float16)
    for number, masks in enumerate(objects.values()):
        for t, rle in enumerate(masks):
            if rle is not None:
                # The integral of a mask is linear between pixels, so that it is exact at the cuts.
                integral = cv2.integral(coco.decode(rle), sdepth=cv2.CV_64F)
                for axis, cut in enumerate(cuts):
                    integral = _at(integral, cut, axis)
                made[t, number] = np.diff(np.diff(integral, axis=0), axis=1) / areas
    return made


def _at(values: np.ndarray, places: np.ndarray, axis: int) -> np.ndarray:
    """Values between those of an axis."""
    before = np.minimum(places.astype(int), values.shape[axis] - 2)
    rest = (places - before).reshape([-1, 1] if axis == 0 else [1, -1])
    return values.take(before, axis) * (1 - rest) + values.take(before + 1, axis) * rest
