"""Stage two at the paper's size, from caches of random numbers: what a step and a run cost."""

import argparse
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from mmengine.config import Config
from mmengine.hooks import Hook

from cache_schema.reader import CacheReader
from scripts import bench_train
from scripts.bench_train import ITERATIONS, Steps, as_loaded, in_the_loop, load
from scripts.measuring import Figures, attempt, peak_mb, seconds_each, synchronise, traced
from scripts.random_caches import write_caches
from train.config import complete, row_layer
from train.runner import Heads, build_runner
from train.trainee import Member, Trainee

PROFILED = 5  # steps
#: Rows that are heads of their own kind.
ROWS = ("trajectory", "select", "baseline", "vita_rvos", "dshmp")
TINY = (
    "--channels 64 --height 8 --width 16 --clip 2 --frames 3 --videos 2 --layers 1 --points 9 "
    "--queries 3 --ranks 8"
)


@contextmanager
def caches(
    settings: argparse.Namespace, *, exact: bool = True
) -> Iterator[tuple[argparse.Namespace, dict[str, Path]]]:
    """The paper's sizes, or tiny ones, with a cache in float16 and one in low rank."""
    options = TINY if settings.tiny else "--videos 6 --frames 12"
    sizes = bench_train.parse([*options.split(), "--device", settings.device])
    with tempfile.TemporaryDirectory() as folder:
        yield sizes, write_caches(Path(folder), sizes, exact=exact)


def configure(
    sizes: argparse.Namespace, batch: int, *, row: str = "dmvs", clip: int | None = None
) -> Config:
    """The paper's head at a number of clips a batch, of a row, with T frames."""
    sizes.batch = batch
    config = bench_train.head_config(sizes)
    more: dict[str, dict[str, Any]] = {"train": {"checkpoint_interval": ITERATIONS}}
    if clip is not None:
        more["data"] = {"clip_source": "video", "num_frames": clip}
    layers = [("the paper", config.to_dict()), *row_layer(row), ("the benchmark", more)]
    return complete(layers, path=config.filename)


def measure(settings: argparse.Namespace, device: torch.device, figures: Figures) -> None:
    """Enter milliseconds a step and what a whole run takes with them."""

    def took(work: Callable[[], Any], **how: Any) -> float:
        once = {"warm_up": 0, "least": 1} if settings.tiny else {}
        return seconds_each(work, device, **{"turn": settings.turn, **how, **once})

    def whole(seconds: float) -> dict[str, float]:
        name = f"min for {ITERATIONS:,}"
        return {"ms": 1000 * seconds, "it/s": 1 / seconds, name: seconds * ITERATIONS / 60}

    def step(path: Path, config: Config) -> dict[str, float]:
        loaded, steps = load(config, path, device), Steps(config, device)
        batch = next(loaded)
        both = took(lambda: steps(next(loaded)))
        alone = took(lambda: steps(as_loaded(batch)))
        return {
            "load ms": 1000 * took(lambda: next(loaded)),
            "step ms": 1000 * alone,
            **whole(both),  # of load and step
        }

    def memory(path: Path, config: Config) -> int:
        def work() -> None:
            loaded, steps = load(config, path, device), Steps(config, device)
            for _ in range(10):
                steps(next(loaded))

        return peak_mb(device, work)

    def run(path: Path, config: Config) -> dict[str, float]:
        return whole(seconds_of_a_run(path, config, device, 10 if settings.tiny else 300))

    def looped(path: Path, config: Config, preset: str) -> dict[str, float]:
        loaded, steps = load(config, path, device), Steps(config, device)
        work = in_the_loop(steps, loaded, sizes, preset, device)
        return whole(took(work, turn=0.0, warm_up=1))

    numbers = (1, 2) if settings.tiny else (1, 8, 32)
    eight, short = numbers[1], 2 if settings.tiny else 8
    with caches(settings) as (sizes, paths):
        (exact_name, exact), (low_name, low) = paths.items()

        def add(name: str, work: Callable[..., Any], *about: Any) -> None:
            attempt(figures, name, partial(work, *about))

        add(f"{low_name}, {eight} clips", step, low, configure(sizes, eight))
        add(f"run, {low_name}", run, low, configure(sizes, eight))
        for preset in ["demo"] if settings.tiny else ["mevis_swinl", "mevis_r50"]:
            name = f"VITA {preset} in the loop, {eight} clips"
            add(name, looped, low, configure(sizes, eight), preset)
        for name, path in paths.items():
            add(f"{name}, MB with T = 8", memory, path, configure(sizes, 1, clip=short))
        for row in ROWS:
            add(f"{row}, {eight} clips", step, low, configure(sizes, eight, row=row))
        for clips in {*numbers} - {eight}:
            add(f"{low_name}, {clips} clips", step, low, configure(sizes, clips))
        for clips in numbers[:2]:
            add(f"{exact_name}, {clips} clips", step, exact, configure(sizes, clips))
        for key, value in (("graphs", False), ("autocast", "bfloat16")):
            config = configure(sizes, eight)
            config.train[key] = value
            add(f"{key}={value}, {eight} clips", step, low, config)


def seconds_of_a_run(path: Path, config: Config, device: torch.device, last: int) -> float:
    """Seconds an iteration of the real command's loop, without its first quarter."""
    times: list[float] = []
    first = last // 4

    class Clock(Hook):
        def after_train_iter(self, *_: Any, **__: Any) -> None:
            if len(times) in (first, last):
                synchronise(device)
            times.append(perf_counter())

    config = config.copy()
    config.train.max_iters = last + 1
    with tempfile.TemporaryDirectory() as folder:
        readers, place = [CacheReader(path)], Path(folder)
        head = Trainee(Member("", config.train.seed, config), readers, place, device)
        runner = build_runner([head], readers, place, device=device)
        runner.register_hook(Clock())
        runner.train()
    return (times[last] - times[first]) / (last - first)


def sweeps(settings: argparse.Namespace, device: torch.device, figures: Figures) -> None:
    """Enter the milliseconds of a batch for several heads in one pass, and for one alone."""

    def one_pass(config: Config, path: Path, heads: int, together: bool) -> dict[str, float]:
        config.data.seed = 0
        members = []
        for seed in range(heads):
            own = config.copy()
            own.train.seed = seed
            members.append(Member("dmvs", seed, own))
        with tempfile.TemporaryDirectory() as folder:
            readers = [CacheReader(path)]
            trainees = [Trainee(member, readers, Path(folder), device) for member in members]
            work = Heads(trainees, together=together and device.type == "cuda")
            loaded, numbers = load(config, path, device), count()

            def step() -> None:
                work.train_step(next(loaded), next(numbers))

            took: dict[str, float] = {}
            turn = 2 * settings.turn
            took["MB"] = peak_mb(
                device, lambda: took.update(ms=1000 * seconds_each(step, device, turn=turn))
            )
        alone = took["ms"] if heads == 1 else figures.get("1 heads", {}).get("ms")
        return took | ({"single runs /": heads * alone / took["ms"]} if alone else {})

    with caches(settings, exact=False) as (sizes, paths):
        (light,) = paths.values()
        several = (2, 2) if settings.tiny else (4, 16)
        for heads, together in [(1, False), (several[1], False), *((n, True) for n in several)]:
            name = f"{heads} heads" + (" together" if together else "")
            config = configure(sizes, 2 if settings.tiny else 8)
            attempt(figures, name, partial(one_pass, config, light, heads, together))


def profile(settings: argparse.Namespace, device: torch.device, figures: Figures) -> None:
    """Enter the kernels of `PROFILED` steps on a batch in memory."""
    with caches(settings, exact=False) as (sizes, paths):
        (light,) = paths.values()
        config = configure(sizes, 2 if settings.tiny else 8)

        def steps() -> Figures:
            batch, step = next(load(config, light, device)), Steps(config, device)

            def work() -> None:
                for _ in range(PROFILED):
                    step(as_loaded(batch))

            work()  # what is made once is not to be seen
            return traced(work, device)

        attempt(figures, f"{PROFILED} steps, {sizes.batch} clips", steps)
