"""What the benchmarks share: options, the clock, memory, kernels, going on after errors, tables."""

import argparse
import datetime
import gc
import json
import platform
import statistics
import subprocess
import time
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
import torch

from cache_schema.host import cli, files
from cache_schema.host.cli import InputError
from cache_schema.host.cores import CORES

Figures = dict[str, Any]
#: What is called after each `attempt`.
AFTER: list[Callable[[], None]] = []


class _AtLeastOne(argparse.Action):
    def __call__(self, parser: Any, found: argparse.Namespace, values: Any, option: Any) -> None:
        for value in values if isinstance(values, list) else [values]:
            if value < 1:
                raise InputError(f"{option} is {value}: give at least 1")
        setattr(found, self.dest, values)


def options(
    name: str, doc: str | None, numbers: Iterable[tuple[str, int, str]] = ()
) -> argparse.ArgumentParser:
    """A parser with ``--json``, and whole numbers (name, default, meaning) that are at least 1."""
    parser = cli.parser(f"scripts.{name}", doc)
    for option, default, what in numbers:
        number(parser, option, default, f"{what} (default {default})")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    return parser


def number(parser: argparse.ArgumentParser, name: str, default: Any, what: str, **how: Any) -> None:
    """Add an option for whole numbers that are at least 1."""
    parser.add_argument(
        f"--{name}", type=int, action=_AtLeastOne, default=default, help=what, **how
    )


def report(figures: Figures, lines: Iterable[str], path: Path | None) -> int:
    """Print lines and write the figures as JSON; the exit status."""
    print("\n".join(lines), flush=True)
    if path:
        files.write(path, json.dumps(figures, indent=1) + "\n")
    return 0


def machine(device: torch.device | str = "cpu") -> Figures:
    """Where figures come from."""
    found = {
        "date": datetime.date.today().isoformat(),
        "device": "cpu",
        "cpu": platform.processor() or platform.machine(),
        "cores": CORES,
        "system": platform.platform(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "h5py": h5py.__version__,
        "opencv": cv2.__version__,
        "torch": torch.__version__,
        "transformers": version("transformers"),
    }
    try:
        models = [x for x in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in x]
        found["cpu"] = models[0].split(":")[1].strip()
    except (OSError, IndexError):
        pass
    if torch.device(device).type == "cuda":
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        driver = subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip()
        found |= {"device": torch.cuda.get_device_name(device), "driver": driver}
    return found


def listed(content: Mapping[str, Any]) -> str:
    """Names and values in one line."""
    return ", ".join(f"{name} {_text(value)}" for name, value in content.items())


def lines(figures: Mapping[str, Any], where: str = "") -> Iterator[str]:
    """Figures of any depth: a line for each innermost group."""
    single = {n: each for n, each in figures.items() if not isinstance(each, dict | list)}
    if single:
        yield f"{where}: {listed(single)}" if where else listed(single)
    for name, each in figures.items():
        if isinstance(each, dict):
            yield from lines(each, f"{where}, {name}" if where else name)
        elif isinstance(each, list):
            yield from (f"  {listed(row)}" for row in each)


def attempt(
    figures: Figures, name: str, measure: Callable[[], Any], *, end: float = float("inf")
) -> None:
    """Enter a measurement, or the error that stopped it; the others go on.

    Args:
        end: by ``time.perf_counter``: later than that nothing is measured any more.
    """
    try:
        if time.perf_counter() > end:
            raise TimeoutError("no time was left")
        figures[name] = measure()
    except Exception as error:  # whatever a GPU may say
        figures[name] = {"error": f"{type(error).__name__}: {error}".splitlines()[0][:500]}
        if not isinstance(error, TimeoutError):
            traceback.print_exc()
    for call in AFTER:
        call()
    print(f"{name}: {figures[name] if len(str(figures[name])) < 400 else 'measured'}", flush=True)
    if torch.cuda.is_available():
        gc.collect()  # what refers to itself: models with graphs, errors with their frames
        torch.cuda.empty_cache()
        held = torch.cuda.memory_reserved() >> 20
        print(f"    {held} MiB of the device are held", flush=True)


def errors(figures: Any, where: str = "") -> Iterator[str]:
    """Every error that `attempt` has entered, with its place."""
    if isinstance(figures, dict):
        for name, each in figures.items():
            if name == "error":
                yield f"{where}: {each}"
            else:
                yield from errors(each, f"{where}, {name}" if where else str(name))


def synchronise(device: torch.device) -> None:
    """Wait for a device."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def seconds_each(
    work: Callable[[], Any],
    device: torch.device,
    *,
    turn: float,
    warm_up: int = 3,
    least: int = 2,
    wait: bool = False,
) -> float:
    """Seconds of a call, in a row of ``least`` or more calls that takes ``turn`` seconds or more.

    A GPU is waited for before and after the row only, for in training one step follows the other,
    unless it is to ``wait`` for each call.
    """
    for _ in range(warm_up):
        work()
    synchronise(device)
    start, count = time.perf_counter(), 0
    while count < least or time.perf_counter() - start < turn:
        work()
        count += 1
        if wait:
            synchronise(device)
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


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Of things that were measured in turn: the median over the turns."""
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def exhaust(items: Iterable[Any]) -> None:
    """Go through items and keep none."""
    for _ in items:
        pass


def table(rows: Mapping[str, Any]) -> list[str]:
    """Rows of named figures below the names that any of them has; what is no such row as text."""
    rows = {name: row for name, row in rows.items() if row not in ({}, None)}
    figured = [row for row in rows.values() if isinstance(row, dict) and "error" not in row]
    columns = list(dict.fromkeys(name for row in figured for name in row))
    first = max(map(len, rows), default=0)
    out = [" " * first + "".join(f"  {name:>8}" for name in columns)]
    for name, row in rows.items():
        if isinstance(row, dict) and "error" not in row:
            cells = (f"{_text(row.get(c, '')):>{max(8, len(c))}}" for c in columns)
            out.append(f"{name:<{first}}  " + "  ".join(cells))
        else:
            said = row["error"] if isinstance(row, dict) else _text(row)
            out.append(f"{name:<{first}}  {said}")
    return out


def _text(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


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
