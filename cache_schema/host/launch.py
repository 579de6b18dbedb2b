"""Which of several processes this is, as torchrun or Slurm say it in the environment."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from cache_schema.host.cli import InputError

LAUNCHERS = ("none", "pytorch", "slurm")
#: By launcher: the variables with the rank, the number of ranks, and the rank on its machine.
VARIABLES = {
    "pytorch": ("RANK", "WORLD_SIZE", "LOCAL_RANK"),
    "slurm": ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"),
}


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
