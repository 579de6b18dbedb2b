"""Ground-truth objects as bytes: a JSON list with one COCO RLE or null a frame."""

import json
from typing import Any

import numpy as np

from cache_schema.host.cli import InputError
from cache_schema.records import RLE, Geometry


def pack(rles: list[RLE | None], geometry: Geometry, num_frames: int) -> np.ndarray:
    """One object's masks as a one-dimensional uint8 array.

    Raises:
        InputError: not one mask a frame, or a mask of another size than the original frames.
    """
    rows = [None if rle is None else _row(rle) for rle in rles]
    _check(rows, geometry, num_frames)
    return np.frombuffer(json.dumps(rows, separators=(",", ":")).encode(), np.uint8)


def unpack(data: np.ndarray, geometry: Geometry, num_frames: int) -> list[RLE | None]:
    """The masks back from `pack`, checked in the same way."""
    try:
        rows = json.loads(data.tobytes())
    except (ValueError, RecursionError):
        raise InputError("its masks are not JSON") from None
    _check(rows, geometry, num_frames)
    return rows


def _row(rle: RLE) -> Any:
    # pycocotools gives the counts as bytes; they are ASCII by construction.
    counts = rle.get("counts")
    counts = counts.decode("ascii", "replace") if isinstance(counts, bytes) else counts
    return {"size": [int(n) for n in rle.get("size", ())], "counts": counts}


def _check(rows: Any, geometry: Geometry, num_frames: int) -> None:
    if not isinstance(rows, list) or len(rows) != num_frames:
        found = f"{len(rows)} masks" if isinstance(rows, list) else "no list of masks"
        raise InputError(f"it has {found} for {num_frames} frames")
    size = [geometry.height, geometry.width]
    for frame, row in enumerate(rows):
        if row is None:
            continue
        if not isinstance(row, dict) or not isinstance(row.get("counts"), str):
            raise InputError(f"its mask of frame {frame} is not a compressed COCO RLE")
        if row.get("size") != size:
            raise InputError(
                f"its mask of frame {frame} has the size {row.get('size')}, the video {size}"
            )
