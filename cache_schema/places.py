"""Mask features found by one process and read by another.

A worker that looks for what a batch needs says where its mask features lie, a few numbers a frame,
and whoever wants them reads them straight to where they are needed: no copy between processes.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from cache_schema.direct import Extent, as_bytes
from cache_schema.reader import CacheReader, Video


@dataclass(frozen=True, slots=True)
class Places:
    """Where the mask features of some frames lie.

    Attributes:
        video: its id.
        frames: t of the video.
        shard: name of the file.
        identity: of the file that this holds for.
        extents: of each array of the codec, the t frames alone; none in a light cache.
    """

    video: str
    frames: list[int]
    shard: str
    identity: tuple[int, ...]
    extents: dict[str, Extent]


def find(video: Video, indices: Iterable[int]) -> Places:
    """The places of t frames of a video, in any order, repeated or not."""
    frames = list(video.frames(indices))
    extents = {name: extent.of(frames) for name, extent in video.mask_extents().items()}
    return Places(video.id, frames, *video.source, extents)


def fill(reader: CacheReader, places: Places, out: Mapping[str, np.ndarray]) -> None:
    """Read mask features.

    Args:
        reader: of the cache that the places are in; threads may share it.
        places: from `find`, perhaps of another process.
        out: for each array (t, ...), contiguous, of the stored shape and type.

    Raises:
        InputError: the shard is gone, cut short, damaged, or another file than before.
    """
    file = reader.same_shard(places.shard, places.identity).file
    for name, extent in places.extents.items():
        for t, target in enumerate(as_bytes(out[name], extent.shape, extent.dtype)):
            file.read(extent.start(t), target)
            key = (places.video, f"mask_features/{name}", places.frames[t])
            reader.check(key, extent.crcs, t, target)
