"""Which form of an operation a CUDA device takes, where the one for processors loses there."""

import torch
from torch import Tensor

#: Deformable attention by `deformable_kernel`, not by `deformable`; False once it failed.
KERNEL = True


def gpu(tensor: Tensor) -> bool:
    """Whether a tensor is where these forms pay."""
    return tensor.is_cuda


def layout(device: torch.device) -> torch.memory_format:
    """Of the maps that convolutions take, in the precision that is set where this is called.

    Tensor cores want channels last, and a processor does as well.
    """
    narrow = torch.is_autocast_enabled(device.type) or torch.backends.cudnn.allow_tf32
    last = device.type == "cpu" or narrow
    return torch.channels_last if last else torch.contiguous_format
