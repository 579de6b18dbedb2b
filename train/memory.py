"""Memory on a CPU that is used again: memory that was never touched is several times slower."""

import ctypes

import numpy as np
import torch
from torch import Tensor

# Of glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4


def keep_freed_memory() -> None:
    """Make this process keep the memory that it frees, for what it needs next.

    Otherwise every large tensor of a step is asked for from the system and given back to it. Where
    the C library is not glibc, nothing changes.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(_MMAP_MAX, 0)
    mallopt(_TRIM_THRESHOLD, 2**31 - 1)


def on_cpu(tensor: Tensor) -> bool:
    """Whether work on a tensor is cut into parts that a processor's cache holds.

    A GPU takes few large operations instead. The numbers are the same up to rounding.
    """
    return tensor.device.type == "cpu"


def empty(shape: tuple[int, ...], device: torch.device) -> Tensor:
    """New float32 memory, for tensors of tens of megabytes.

    On a CPU it is NumPy's, which fits where an array of the same size was freed. Torch's does not
    always, since it is aligned, and freed memory that nothing fits into would pile up.
    """
    if device.type == "cpu":
        return torch.from_numpy(np.empty(shape, np.float32))
    return torch.empty(shape, device=device)
