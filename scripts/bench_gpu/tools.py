"""What the parts of the benchmark share: the clock, memory, and going on after an error."""

import time
import traceback
from collections.abc import Callable
from typing import Any

import torch

from scripts.bench_gpu.kernels import synchronise

Figures = dict[str, Any]


def attempt(figures: Figures, name: str, measure: Callable[[], Any]) -> None:
    """Enter a measurement, or the error that stopped it; the others go on."""
    try:
        figures[name] = measure()
    except Exception as error:
        figures[name] = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
        traceback.print_exc()
    print(f"{name}: {figures[name] if len(str(figures[name])) < 400 else 'measured'}", flush=True)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def seconds_each(
    work: Callable[[], Any], device: torch.device, *, turn: float, warm_up: int = 3
) -> float:
    """Seconds of a call, in a row of calls that takes ``turn`` seconds or more.

    A GPU is waited for before and after the row only, for in training one step follows the other.
    """
    for _ in range(warm_up):
        work()
    synchronise(device)
    start, count = time.perf_counter(), 0
    while count < 2 or time.perf_counter() - start < turn:
        work()
        count += 1
    synchronise(device)
    return (time.perf_counter() - start) / count


def peak_mb(device: torch.device, work: Callable[[], Any]) -> int:
    """Memory in MB (10^6) that torch allocates on a GPU at most while it works; -1 on a CPU."""
    if device.type != "cuda":
        work()
        return -1
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    work()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) // 10**6
