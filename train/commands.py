"""What the commands that train and evaluate share."""

import torch

from cache_schema.host.cli import InputError


def pick_device(name: str) -> torch.device:
    """The device of ``--device``; "auto" is a GPU where there is one. It becomes CUDA's current.

    Raises:
        InputError: there is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.empty(0, device=name).device
        if device.type == "cuda":  # streams and graphs belong to the current one
            torch.cuda.set_device(device)
        return device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"--device {name}: {reason}; use auto, cpu or cuda:N") from error
