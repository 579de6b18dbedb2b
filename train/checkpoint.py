"""Checkpoints that a kill cannot tear and that load without running any code.

A checkpoint holds tensors, numbers and strings only, so `torch.load(weights_only=True)` reads it
as it is; mmengine's own would need its pickled log history.
"""

import io
import os
import re
from pathlib import Path
from typing import Any

import torch
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import nn

from cache_schema.cli import InputError
from train.distributed import unwrapped

NAME = "iter_{}.pth"
PATTERN = re.compile(r"iter_(\d+)\.pth")


class AtomicBackend(LocalBackend):
    """Files appear whole or not at all: written beside, synced, renamed."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        path = Path(filepath)
        temporary = path.with_name(f".{path.name}.tmp")
        with open(temporary, "wb") as file:
            file.write(obj)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


register_backend("atomic", AtomicBackend, force=True)


class PlainCheckpoint(Hook):
    """Replaces mmengine's log history in a checkpoint by what a resume needs of it.

    Args:
        training: JSON-able facts about the run, for the checkpoint's ``meta["training"]``.
    """

    def __init__(self, training: dict[str, Any]) -> None:
        self.training = training

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        unwrapped(runner.model).check()
        keep = runner.message_hub.runtime_info.get("keep_ckpt_ids", [])
        checkpoint["message_hub"] = {
            "log_scalars": {},
            "runtime_info": {"keep_ckpt_ids": list(keep)},
            "resumed_keys": {"keep_ckpt_ids": True},
        }
        checkpoint["meta"]["training"] = self.training


def save_checkpoint(content: dict[str, Any], path: Path) -> None:
    """Write a checkpoint; it appears whole or not at all.

    Args:
        content: tensors, numbers and strings only, as `read_checkpoint` gives them.
    """
    buffer = io.BytesIO()
    torch.save(content, buffer)
    AtomicBackend().put(buffer.getvalue(), path)


def read_checkpoint(path: str | Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Load a checkpoint of this project.

    Returns:
        ``state_dict``, ``optimizer``, ``param_schedulers`` and ``meta``: ``iter`` and
        ``training`` with ``config`` (nested dicts), ``seed`` and ``caches`` (``fingerprint``,
        ``dataset``, ``split`` and ``models``, see `train.data.compatible.signature`).

    Raises:
        InputError: no such file, not readable as plain weights, or not a checkpoint of ours.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"checkpoint {path} does not exist; train first, or check the path")
    try:
        checkpoint = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # torch raises half a dozen types for a broken file
        raise InputError(
            f"checkpoint {path} cannot be read ({str(error).splitlines()[0]}); it is broken or not "
            "a checkpoint of this project"
        ) from error
    if not isinstance(checkpoint, dict) or not {"meta", "state_dict"} <= set(checkpoint):
        raise InputError(f"checkpoint {path} has no 'meta' and 'state_dict'; give an iter_*.pth")
    return checkpoint


def checkpoints(folder: Path) -> dict[int, Path]:
    """The checkpoints in a work folder by their iteration, the earliest first."""
    found = {int(m[1]): path for path in folder.glob("*") if (m := PATTERN.fullmatch(path.name))}
    return dict(sorted(found.items()))


def latest_checkpoint(folder: Path) -> Path | None:
    """The checkpoint of the latest iteration in a work folder, None without any."""
    return next(reversed(checkpoints(folder).values()), None)


def load_weights(module: nn.Module, weights: dict[str, torch.Tensor], *, where: str) -> None:
    """Fill a module with weights of exactly its names and shapes.

    Raises:
        InputError: names the first weights that are missing, unknown or of another shape.
    """
    own = module.state_dict()
    wrong = [f"{name} is missing" for name in own if name not in weights]
    wrong += [f"{name} is unknown" for name in weights if name not in own]
    wrong += [
        f"{name} is {tuple(weights[name].shape)}, expected {tuple(own[name].shape)}"
        for name in own
        if name in weights and weights[name].shape != own[name].shape
    ]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise InputError(
            f"{where} does not fit the config's head: {'; '.join(wrong[:3])}{more}; use the config "
            "it was trained with"
        )
    module.load_state_dict(weights)
