"""Several processes that write one cache: who this one is, and which videos are its own.

Ranks share nothing but the cache's folder and never wait for each other's videos: torchrun or Slurm
starts them and starts them again, and each finds for itself what it has left to do.
"""

import heapq
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from cache_schema.cli import InputError
from extract.reading import Dataset

T = TypeVar("T")

LAUNCHERS = ("none", "pytorch", "slurm")
#: By launcher: the variables with the rank, the number of ranks, and the rank on its machine.
VARIABLES = {
    "pytorch": ("RANK", "WORLD_SIZE", "LOCAL_RANK"),
    "slurm": ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"),
}
#: Seconds between two looks for what rank 0 prepares, and until rank 0 is taken for dead.
PAUSE = 1.0
PATIENCE = 6 * 3600.0


@dataclass(frozen=True)
class Rank:
    """One of ``world_size`` processes.

    Attributes:
        rank: from 0.
        world_size: how many there are, perhaps on several machines.
        local_rank: from 0 on this machine; the index of its CUDA device.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0

    @property
    def prefix(self) -> str:
        """What starts each line that a rank prints; nothing for a single process."""
        return f"[rank {self.rank}] " if self.world_size > 1 else ""


#: The only process of a run.
SINGLE = Rank()


def find_rank(launcher: str | None, environment: Mapping[str, str] = os.environ) -> Rank:
    """Who this process is.

    Args:
        launcher: one of `LAUNCHERS`; None looks for torchrun's variables. Slurm sets its own in
            every job, so that it has to be named.
        environment: of the process.

    Raises:
        InputError: the launcher's variables are missing or not sensible.
    """
    if launcher is None:
        launcher = "pytorch" if "TORCHELASTIC_RUN_ID" in environment else "none"
    if launcher == "none":
        return SINGLE
    names = VARIABLES[launcher]
    try:
        rank = Rank(*(int(environment[name]) for name in names))
    except (KeyError, ValueError):
        starter = "torchrun" if launcher == "pytorch" else "srun"
        given = ", ".join(f"{name}={environment.get(name, 'missing')}" for name in names)
        raise InputError(
            f"--launcher {launcher}: {given}; start the command with {starter}, "
            "or take --launcher none"
        ) from None
    if not 0 <= rank.rank < rank.world_size or rank.local_rank < 0:
        raise InputError(
            f"--launcher {launcher}: there is no rank {rank.rank} of {rank.world_size}"
        )
    return rank


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
