"""Several processes that write one cache: which videos are whose.

Ranks share nothing but the cache's folder and never wait for each other's videos: torchrun or Slurm
starts them and starts them again, and each finds for itself what it has left to do.
"""

import heapq
import time
from collections.abc import Callable
from typing import TypeVar

from cache_schema.host.cli import InputError
from cache_schema.host.launch import Rank
from extract.datasets import Dataset

T = TypeVar("T")

#: Seconds between two looks for what rank 0 prepares, and until rank 0 is taken for dead.
PAUSE = 1.0
PATIENCE = 6 * 3600.0


def share(dataset: Dataset, rank: Rank) -> list[str]:
    """The videos of a rank, in the data set's order.

    Longest first, each goes to the rank with the fewest frames so far. All videos take part, also
    those that are in the cache already: every rank finds the same shares whenever it starts.
    """
    if rank.world_size == 1:
        return dataset.ids
    lengths = {video_id: _num_frames(dataset, video_id) for video_id in dataset.ids}
    loads = [(0, k) for k in range(rank.world_size)]
    own = set()
    for video_id in sorted(lengths, key=lambda video_id: -lengths[video_id]):
        load, least = loads[0]
        heapq.heapreplace(loads, (load + lengths[video_id], least))
        if least == rank.rank:
            own.add(video_id)
    return [video_id for video_id in lengths if video_id in own]


def _num_frames(dataset: Dataset, video_id: str) -> int:
    try:
        return dataset.video(video_id, objects=False).num_frames
    except InputError:  # whose share it is will say so
        return 0


def wait_for(look: Callable[[], T | None], what: str) -> T:
    """What rank 0 prepares for the others, as soon as ``look`` finds it.

    Raises:
        InputError: it does not come.
    """
    end = time.monotonic() + PATIENCE
    while (found := look()) is None:
        if time.monotonic() > end:
            raise InputError(
                f"rank 0 has not prepared {what} in {PATIENCE / 3600:g} hours: see what it says, "
                "then run the same command again"
            )
        time.sleep(PAUSE)
    return found
