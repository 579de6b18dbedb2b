"""What training does on a GPU in one launch each: see `kernels.cu`."""

import warnings
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cache_schema.host import nvrtc

SOURCE = Path(__file__).with_suffix(".cu")
LANES, THREADS = 32, 256


@lru_cache
def available(device: torch.device) -> bool:
    """Whether the kernels run on a device; on a GPU where they do not, a warning says why."""
    if device.type != "cuda":
        return False
    try:
        _kernels(device)
    except Exception as error:  # of torch's private interfaces, of the compiler, of the driver
        warnings.warn(
            f"slower steps, for want of kernels: {type(error).__name__}: {error}", stacklevel=2
        )
        return False
    return True


def assign_all(costs: Tensor, counts: Sequence[int] | None = None) -> Tensor:
    """What `train.losses.assignment.assign` finds in every table, as it would order it.

    Args:
        costs: (G, L, N, M) float32 on a GPU.
        counts: of G samples, how many of the M targets are theirs; all by default.

    Returns:
        (G, L, 2, min(N, M)) int64: queries, and their targets; of a sample with fewer targets the
        first min(N, count).
    """
    samples, layers, queries, targets = costs.shape
    own = torch.full((samples,), targets, dtype=torch.int32, device=costs.device)
    if counts is not None:
        own = torch.tensor(counts, dtype=torch.int32).to(costs.device, non_blocking=True)
    shape = samples, layers, 2, min(queries, targets)
    matches = torch.empty(shape, dtype=torch.int64, device=costs.device)
    with torch.cuda.device(costs.device):
        _kernels(costs.device)["assign"](
            grid=(layers, samples, 1),
            block=(LANES, 1, 1),
            args=[costs.contiguous(), own, matches, layers, queries, targets],
            shared_mem=(max(queries, targets) + 1) * (3 * 8 + 3 * 4),
        )
    return matches


def draw(states: Tensor, pairs: int) -> Tensor:
    """Uniform numbers in [0, 1).

    Args:
        states: (R,) int64, from each of which a row follows.

    Returns:
        (R, pairs, 2) float32; what one more `train.losses.points.STEP` gives as the
        first pair is the second.
    """
    numbers = torch.empty(len(states), pairs, 2, device=states.device)
    with torch.cuda.device(states.device):
        _kernels(states.device)["draw"](
            grid=(-(-pairs // THREADS), len(states), 1),
            block=(THREADS, 1, 1),
            args=[states, numbers, pairs],
        )
    return numbers


@lru_cache
def _kernels(device: torch.device) -> dict[str, Any]:
    """Compiled, to be called as torch calls its own."""
    from torch.cuda._utils import _cuda_load_module

    with torch.cuda.device(device):
        code = compiled("{}{}".format(*torch.cuda.get_device_capability()))
        return _cuda_load_module(code, ["assign", "draw"])


def compiled(capability: str) -> bytes:
    """Machine code for devices of a compute capability, such as "90".

    Raises:
        OSError: there is no NVRTC.
        RuntimeError: it does not compile this.
    """
    from torch.cuda._utils import _get_gpu_rtc_library

    return nvrtc.compiled(_get_gpu_rtc_library(), SOURCE, capability, {"LANES": LANES})
