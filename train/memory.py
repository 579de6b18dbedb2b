"""Memory on a CPU: used again, for new memory is several times slower; and for samples."""

import ctypes
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

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


class Buffers:
    """Tensors on the host.

    In a worker process of a `DataLoader` they lie in shared memory, so that they reach the
    training process as they are.
    """

    def empty(self, shape: Sequence[int], dtype: np.dtype) -> Tensor:
        """A tensor of any content."""
        if get_worker_info() is not None:
            return self._shared(shape, dtype)
        # NumPy asks for huge pages: new memory is filled about twice as fast as torch's.
        return torch.from_numpy(np.empty(shape, dtype))

    def zeros(self, shape: Sequence[int], dtype: np.dtype) -> Tensor:
        """A tensor of zeros."""
        if get_worker_info() is not None:
            return self._shared(shape, dtype)
        return torch.from_numpy(np.zeros(shape, dtype))

    @staticmethod
    def _shared(shape: Sequence[int], dtype: np.dtype) -> Tensor:
        """Shared memory, which the system hands out zeroed; made as torch's own collate does."""
        items = int(np.prod(shape))
        storage = torch.UntypedStorage._new_shared(items * np.dtype(dtype).itemsize)
        return torch.empty(0, dtype=torch_dtype(dtype)).set_(storage, 0, tuple(shape))


def torch_dtype(dtype: np.dtype) -> torch.dtype:
    """Torch's name of a NumPy type."""
    return torch.from_numpy(np.empty(0, dtype)).dtype
