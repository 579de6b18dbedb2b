"""The cheapest one-to-one assignments on a GPU, without waiting for it: see `assignment.cu`."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cache_schema.host import nvrtc

SOURCE = Path(__file__).with_name("assignment.cu")
NAME = "assign"
LANES = 32  # of a warp
#: False once it has failed.
WORKS = True


class KernelError(RuntimeError):
    """The kernel cannot be compiled, loaded or launched here."""


def assign_all(costs: Tensor, counts: Sequence[int]) -> Tensor:
    """What `assign` finds in every table, as it would order it.

    Args:
        costs: (G, L, N, M) float32 on a GPU.
        counts: of G samples, how many of the M targets are theirs.

    Returns:
        (G, L, 2, min(N, M)) int64: queries, and their targets; of a sample with fewer targets the
        first min(N, count).

    Raises:
        KernelError: there is no such kernel here.
    """
    samples, layers, queries, targets = costs.shape
    own = torch.tensor(counts, dtype=torch.int32).to(costs.device, non_blocking=True)
    shape = samples, layers, 2, min(queries, targets)
    matches = torch.empty(shape, dtype=torch.int64, device=costs.device)
    try:
        with torch.cuda.device(costs.device):
            _kernel(costs.device)(
                grid=(layers, samples, 1),
                block=(LANES, 1, 1),
                args=[costs.contiguous(), own, matches, layers, queries, targets],
                shared_mem=(max(queries, targets) + 1) * (3 * 8 + 3 * 4),
            )
    except Exception as error:  # of torch's private interfaces, of the compiler, of the driver
        raise KernelError(f"{type(error).__name__}: {error}") from error
    return matches


@lru_cache
def _kernel(device: torch.device) -> Any:
    """The compiled kernel, to be called as torch calls its own."""
    from torch.cuda._utils import _cuda_load_module

    capability = "{}{}".format(*torch.cuda.get_device_capability(device))
    return _cuda_load_module(compiled(capability), [NAME])[NAME]


def compiled(capability: str) -> bytes:
    """Machine code for devices of a compute capability, such as "90".

    Raises:
        OSError: there is no NVRTC.
        RuntimeError: it does not compile this.
    """
    from torch.cuda._utils import _get_gpu_rtc_library

    return nvrtc.compiled(_get_gpu_rtc_library(), SOURCE, capability, {"LANES": LANES})
