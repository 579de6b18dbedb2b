"""Several training processes: they start under torchrun or Slurm and average their gradients."""

import gc
import os
import subprocess
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

import torch
from mmengine.dist import all_gather_object, all_reduce, is_distributed
from torch import Tensor

from cache_schema.host.cli import InputError
from cache_schema.host.launch import Rank

PORT = "29500"  # torch's own choice where none is given


def join(rank: Rank, launcher: str | None, device: torch.device) -> torch.device:
    """Meet the other processes; does nothing for a single one.

    Args:
        rank: which one this is.
        launcher: what started it, see `cache_schema.host.launch.find_rank`.
        device: as asked for; without an index each process on a machine takes its own GPU.

    Returns:
        The device of this process.

    Raises:
        InputError: there are fewer GPUs than processes on this machine.
    """
    if rank.world_size == 1:
        return device
    if device.type == "cuda":
        if device.index is None:
            device = torch.device("cuda", rank.local_rank)
        if device.index >= torch.cuda.device_count():
            raise InputError(
                f"rank {rank.rank} wants {device}, but this machine has "
                f"{torch.cuda.device_count()} GPU(s); start one process a GPU"
            )
        torch.cuda.set_device(device)
    if launcher == "slurm":
        os.environ.setdefault("MASTER_ADDR", _first_host())
        os.environ.setdefault("MASTER_PORT", PORT)
    torch.distributed.init_process_group(
        "nccl" if device.type == "cuda" else "gloo", rank=rank.rank, world_size=rank.world_size
    )
    return device


def leave() -> None:
    """Part from the other processes.

    To be called when nothing holds the model any more: what a wrapped one has in its threads must
    not outlive the connections.
    """
    if is_distributed():
        gc.collect()
        torch.distributed.destroy_process_group()


def check_agreed(found: Mapping[str, Any]) -> None:
    """Wait for the other processes, and refuse to go on if they have been told something else.

    Args:
        found: by what it is called in the message; JSON-able or of tuples.

    Raises:
        InputError: in all of them.
    """
    digests = {what: sha256(repr(own).encode()).hexdigest() for what, own in found.items()}
    every = all_gather_object(digests)
    for what in found:
        others = [rank for rank, theirs in enumerate(every) if theirs[what] != every[0][what]]
        if others:
            raise InputError(
                f"the {what} of rank {others[0]} are not those of rank 0: start all processes with "
                "the same command, and let all machines see the same files"
            )


def mean_over_ranks(numbers: Tensor) -> Tensor:
    """The mean over all ranks of what each counted: what the loss of a rank is divided by.

    Gradients are averaged over the ranks. With this in the denominators, the average is the
    gradient that one process would get from the whole batch.
    """
    numbers = numbers.clone()
    all_reduce(numbers, op="mean")
    return numbers


def _first_host() -> str:
    """The machine of rank 0 in a job of Slurm."""
    nodes = os.environ.get("SLURM_JOB_NODELIST", "")
    try:
        said = subprocess.run(
            ["scontrol", "show", "hostnames", nodes], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError) as error:
        raise InputError(
            f"--launcher slurm: scontrol does not say the hosts of {nodes!r} ({error}); set "
            "MASTER_ADDR to the machine of rank 0"
        ) from None
    return said.stdout.split()[0]
