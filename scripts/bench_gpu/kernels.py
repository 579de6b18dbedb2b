"""What a device did while a function ran: its most costly kernels, and the gaps between them."""

import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch

from scripts.measuring import Figures, synchronise


def traced(run: Callable[[], Any], device: torch.device) -> Figures:
    """Kernels (on a processor: operators, which contain each other) while a function runs."""
    cuda = device.type == "cuda"
    kind = torch.profiler.ProfilerActivity.CUDA if cuda else torch.profiler.ProfilerActivity.CPU
    synchronise(device)
    with torch.profiler.profile(activities=[kind], acc_events=True) as profiler:
        start = time.perf_counter()
        run()
        synchronise(device)
        wall = time.perf_counter() - start
    events = profiler.profiler.kineto_results.events()
    wanted = torch.autograd.DeviceType.CUDA if cuda else torch.autograd.DeviceType.CPU
    spans = [
        (each.start_ns() / 1e9, each.duration_ns() / 1e9, each.name())
        for each in events
        if each.device_type() == wanted and each.duration_ns() > 0
    ]
    by_name: dict[str, list[float]] = defaultdict(list)
    for _, seconds, name in spans:
        by_name[name].append(seconds)
    total = sum(seconds for _, seconds, _ in spans)
    busy_for, window = union(spans)
    ranked = sorted(by_name.items(), key=lambda item: -sum(item[1]))
    return {
        "wall_ms": 1000 * wall,
        "kernels": len(spans),
        "window_ms": 1000 * window,
        "busy_share": busy_for / window if window else None,
        "top": [
            {"name": name[:110], "ms": 1000 * sum(each), "calls": len(each),
             "share": sum(each) / total}
            for name, each in ranked[:10]
        ],
    }  # fmt: skip


def union(spans: list[tuple[float, float, str]]) -> tuple[float, float]:
    """Seconds that at least one span covers, and from the first's start to the last's end."""
    covered, end = 0.0, float("-inf")
    for start, seconds, _ in sorted(spans):
        covered += max(start + seconds - max(start, end), 0.0)
        end = max(end, start + seconds)
    return covered, (end - min(spans)[0]) if spans else 0.0
