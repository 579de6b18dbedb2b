"""Which form of an operation a CUDA device takes, where the one for processors may lose there.

Graphs that were captured before a change keep the form they have.
"""

import torch
from torch import Tensor

#: Resizing by means of cells and by `torch.nn.functional.interpolate`, not by `embedding_bag`.
INTERPOLATE = True
#: Group norm of maps with channels last by `pixel_decoder`, not by torch.
GROUP_NORM = True
#: A Swin by `extract.segmenters.vita.swin`, not as the library wrote it.
SWIN = True
#: Deformable attention by `deformable_kernel`, not by `deformable`; False once it failed.
KERNEL = True
#: Convolutions with channels last: True, False, or None for where they run on tensor cores.
CHANNELS_LAST: bool | None = None


def gpu(tensor: Tensor) -> bool:
    """Whether a tensor is where these forms pay."""
    return tensor.is_cuda


def layout(device: torch.device) -> torch.memory_format:
    """Of the maps that convolutions take, in the precision that is set where this is called.

    Tensor cores want channels last, and a processor does as well.
    """
    last = CHANNELS_LAST
    if device.type == "cpu":
        last = True
    elif last is None:
        last = torch.is_autocast_enabled(device.type) or torch.backends.cudnn.allow_tf32
    return torch.channels_last if last else torch.contiguous_format
