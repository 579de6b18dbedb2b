"""What the parts of the benchmark share: the clock, the profile, and going on after an error."""

import statistics
import time
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

Figures = dict[str, Any]


def attempt(figures: Figures, name: str, measure: Callable[[], Any]) -> None:
    """Enter a measurement, or the error that stopped it; the others go on."""
    try:
        figures[name] = measure()
    except Exception as error:
        figures[name] = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
        traceback.print_exc()
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
    synchronize(device)
    start, count = time.perf_counter(), 0
    while count < 2 or time.perf_counter() - start < turn:
        work()
        count += 1
    synchronize(device)
    return (time.perf_counter() - start) / count


def synchronize(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


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


def profiled(work: Callable[[], Any], device: torch.device, *, calls: int = 5) -> Figures:
    """The ten most costly kernels of a call and how much of the time none runs.

    On a CPU operations take the place of kernels.
    """
    for _ in range(3):
        work()
    synchronize(device)
    cuda = device.type == "cuda"
    start = time.perf_counter()
    for _ in range(calls):
        work()
    synchronize(device)
    alone = (time.perf_counter() - start) / calls
    with profile(activities=[ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU]) as found:
        start = time.perf_counter()
        for _ in range(calls):
            work()
        synchronize(device)
        wall = (time.perf_counter() - start) / calls
    spans, kernels = [], defaultdict(list)
    for event in found.events():
        if not cuda or event.device_type == torch.autograd.DeviceType.CUDA:
            spans.append((event.time_range.start, event.time_range.end))
            kernels[event.name].append(event.time_range.elapsed_us())
    costly = sorted(kernels.items(), key=lambda item: -sum(item[1]))[:10]
    return {
        "ms": 1000 * alone,
        "ms_profiled": 1000 * wall,
        "busy": covered(spans) / 1e6 / (wall * calls),
        "launches": sum(map(len, kernels.values())) / calls,
        "kernels": [
            {"name": name[:120], "ms": sum(own) / 1000 / calls, "calls": len(own) / calls}
            for name, own in costly
        ],
    }


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """How much of a line the union of spans covers."""
    total, end = 0.0, float("-inf")
    for first, last in sorted(spans):
        total += max(0.0, last - max(first, end))
        end = max(end, last)
    return total


def profile_lines(name: str, figures: Figures) -> list[str]:
    """A profile as text."""
    if "error" in figures:
        return [f"{name}: {figures['error']}"]
    head = (
        f"{name}: {figures['ms']:.1f} ms, {figures['launches']:.0f} kernels, "
        f"busy {100 * figures['busy']:.0f}% of {figures['ms_profiled']:.1f} ms under the profiler"
    )
    rows = [
        f"  {own['ms']:>8.3f} ms {own['calls']:>7.1f} x {own['name'][:90]}"
        for own in figures["kernels"]
    ]
    return [head, *rows]


def median(values: Iterable[float]) -> float:
    """The median."""
    return statistics.median(values)
