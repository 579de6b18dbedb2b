"""What the commands that train and evaluate share."""

from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from mmengine.dist import is_main_process

from cache_schema.host import files
from cache_schema.host.cli import InputError
from cache_schema.host.cores import model_threads
from cache_schema.host.launch import find_rank
from cache_schema.host.lock import CacheLock
from train.distributed import join, leave
from train.memory import keep_freed_memory
from train.options import DEVICE
from train.places import how_to_go_on


@contextmanager
def one_of_several(arguments: Namespace) -> Iterator[torch.device]:
    """Meet the other processes of a training, if there are any; the device of this one.

    Raises:
        InputError: they cannot be met, or there is no such device.
    """
    rank = find_rank(arguments.launcher)
    torch.set_num_threads(model_threads())
    keep_freed_memory()
    device = join(rank, arguments.launcher, pick_device(arguments.device))
    try:
        yield device
    finally:
        leave()


@contextmanager
def alone_in(work_dir: Path) -> Iterator[None]:
    """Keep other trainings out of a work folder, in the main process of a run.

    Raises:
        InputError: another one is at work there, or the folder cannot be written.
    """
    if not is_main_process():
        yield
        return
    files.make_folder(work_dir)
    with CacheLock(work_dir, what="the work folder"):
        try:
            yield
        except KeyboardInterrupt:
            raise KeyboardInterrupt(how_to_go_on(work_dir)) from None


def pick_device(name: str) -> torch.device:
    """The device of ``--device``; "auto" is a GPU where there is one. It becomes CUDA's current.

    Raises:
        InputError: there is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        nothing = torch.empty(0, device=name)
        nothing.cpu()  # which "meta" cannot
        device = nothing.device
        if device.type == "cuda":  # streams and graphs belong to the current one
            torch.cuda.set_device(device)
        return device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"--device {name}: {reason}; use {DEVICE}") from error
