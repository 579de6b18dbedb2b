"""Stage two at the paper's size, from caches of random numbers: what a step and a run cost."""

import argparse
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from mmengine.config import Config
from mmengine.hooks import Hook

from cache_schema.reader import CacheReader
from extract.config import load_config as load_extract_config
from extract.stage import RANDOM, load_stage
from scripts import bench_train
from scripts.bench_cache import codecs
from scripts.bench_gpu.kernels import kernel_lines, synchronise, traced
from scripts.bench_gpu.tools import Figures, attempt, peak_mb, seconds_each
from scripts.bench_train import ITERATIONS, Steps, as_loaded, segmented
from train.config import load_row
from train.config import merge as merge_row
from train.data import Batch
from train.runner import Heads, build_dataset, build_loader, build_runner, on_device
from train.trainee import Member, Trainee

PROFILED = 5  # steps
#: Rows of the paper that are heads of their own kind.
ROWS = ("dmvs", "baseline")
TINY = (
    "--channels 64 --height 8 --width 16 --clip 2 --frames 3 --videos 2 --layers 1 --points 9 "
    "--queries 3 --ranks 8"
)


def sizes(settings: argparse.Namespace) -> argparse.Namespace:
    """The paper's, or tiny ones."""
    options = TINY if settings.tiny else "--videos 6 --frames 12"
    return bench_train.parse([*options.split(), "--device", settings.device])


@contextmanager
def caches(settings: argparse.Namespace, *, light: bool = False) -> Iterator[dict[str, Path]]:
    """A cache in float16 and one in low rank, or the latter alone."""
    with tempfile.TemporaryDirectory() as folder:
        found = {}
        for codec in codecs(sizes(settings))[light:]:
            name = f"rank {codec.basis.rank}" if codec.basis else codec.name
            found[name] = Path(folder) / name.replace(" ", "-")
            bench_train.write(found[name], codec, sizes(settings))
        yield found


def configure(
    settings: argparse.Namespace, batch: int, *, row: str = "dmvs", clip: int | None = None
) -> Config:
    """The paper's head at a number of clips a batch, of a row, with T frames."""
    own = sizes(settings)
    own.batch = batch
    config = bench_train.head_config(own)
    content = config.to_dict()
    merge_row(content, load_row(row))
    if clip is not None:
        content["data"] |= {"clip_source": "video", "num_frames": clip}
    content["train"] |= {"max_iters": ITERATIONS, "checkpoint_interval": ITERATIONS}
    return Config(content, filename=config.filename)


def batches(config: Config, path: Path, device: torch.device) -> Iterator[Batch]:
    """As training loads them."""
    loader = build_loader(config, build_dataset([config], [CacheReader(path)], device))
    return iter(on_device(loader, device))


def measure(settings: argparse.Namespace, device: torch.device, figures: Figures) -> None:
    """Enter times in seconds; see `lines`."""
    numbers = (1, 2) if settings.tiny else (1, 8, 32)
    eight = numbers[1]

    def step(path: Path, config: Config) -> dict[str, float]:
        loaded = batches(config, path, device)
        steps = Steps(config, device)
        batch = next(loaded)
        both = seconds_each(lambda: steps(next(loaded)), device, turn=settings.turn)
        own = {
            "load and step": both,
            "step": seconds_each(lambda: steps(as_loaded(batch)), device, turn=settings.turn),
            "load": seconds_each(lambda: next(loaded), device, turn=settings.turn),
        }
        loaded.close() if hasattr(loaded, "close") else None
        return own

    def memory(path: Path) -> int:
        config = configure(settings, 1, clip=2 if settings.tiny else 8)

        def work() -> None:
            loaded, steps = batches(config, path, device), Steps(config, device)
            for _ in range(10):
                steps(next(loaded))

        return peak_mb(device, work)

    with caches(settings) as paths:
        *_, light = paths.values()
        for name, path in paths.items():
            for number in numbers[: None if path == light else 2]:
                attempt(
                    figures,
                    f"{name}, {number} clips",
                    lambda path=path, number=number: step(path, configure(settings, number)),
                )
            attempt(figures, f"{name}, MB with T = 8", lambda path=path: memory(path))
        for row in ROWS[1:]:
            config = configure(settings, eight, row=row)
            attempt(figures, f"{row}, {eight} clips", lambda c=config: step(light, c))
        for key, value in (("graphs", False), ("autocast", "bfloat16")):
            config = configure(settings, eight)
            config.train[key] = value
            name = f"{key}={value}, {eight} clips"
            attempt(figures, name, lambda c=config: step(light, c))
        attempt(figures, "run", lambda: run(settings, light, device, eight))
        for preset in ["demo"] if settings.tiny else ["mevis_r50", "mevis_swinl"]:
            attempt(
                figures,
                f"VITA {preset} in the loop, {eight} clips",
                lambda p=preset: in_the_loop(settings, light, device, eight, p),
            )


def run(settings: argparse.Namespace, path: Path, device: torch.device, number: int) -> float:
    """Seconds an iteration of the real command's loop, without its start."""
    times: list[float] = []

    class Clock(Hook):
        def after_train_iter(self, *_: Any, **__: Any) -> None:
            if len(times) in (first, last):
                synchronise(device)
            times.append(perf_counter())

    last = 10 if settings.tiny else 300
    first = last // 4
    config = configure(settings, number)
    config.train.max_iters = last + 1
    with tempfile.TemporaryDirectory() as folder:
        reader, place = CacheReader(path), Path(folder)
        head = Trainee(Member("", config.train.seed, config), [reader], place, device)
        runner = build_runner([head], [reader], place, device=device)
        runner.register_hook(Clock())
        runner.train()
    return (times[last] - times[first]) / (last - first)


def in_the_loop(
    settings: argparse.Namespace, path: Path, device: torch.device, number: int, preset: str
) -> float:
    """Seconds of a step with the frozen segmenter of random weights in the loop."""
    own = sizes(settings)
    stage = load_stage(load_extract_config(preset, {}), RANDOM, str(device), has_text=False)
    shape = (number, own.clip, 3, 4 * own.height, 4 * own.width)
    images = torch.rand(shape, device=device)
    config = configure(settings, number)
    steps, loaded = Steps(config, device), batches(config, path, device)
    return seconds_each(
        lambda: steps(segmented(stage, images, next(loaded))), device, turn=0.0, warm_up=1
    )


def sweeps(settings: argparse.Namespace, device: torch.device, figures: Figures) -> None:
    """Enter the seconds of a batch for several heads in one pass, and for one alone."""
    number = 2 if settings.tiny else 8

    def one_pass(path: Path, heads: int, together: bool) -> dict[str, float]:
        config = configure(settings, number)
        config.data.seed = 0
        config.train.together = together
        members = []
        for seed in range(heads):
            own = config.copy()
            own.train.seed = seed
            members.append(Member("dmvs", seed, own))
        with tempfile.TemporaryDirectory() as folder:
            readers = [CacheReader(path)]
            trainees = [Trainee(member, readers, Path(folder), device) for member in members]
            work = Heads(trainees, together=together and device.type == "cuda")
            loaded, numbers = batches(config, path, device), count()

            def step() -> None:
                work.train_step(next(loaded), next(numbers))

            took: dict[str, float] = {}
            took["MB"] = peak_mb(
                device, lambda: took.update(s=seconds_each(step, device, turn=2 * settings.turn))
            )
            return took

    with caches(settings, light=True) as paths:
        (light,) = paths.values()
        several = (2, 2) if settings.tiny else (4, 16)
        for heads, together in [(1, False), (several[1], False), *((n, True) for n in several)]:
            name = f"{heads} heads" + (" together" if together else "")
            attempt(figures, name, lambda n=heads, own=together: one_pass(light, n, own))


def profiles(settings: argparse.Namespace, device: torch.device, figures: Figures) -> None:
    """Enter the kernels of `PROFILED` steps on a batch in memory, with graphs and without."""
    number = 2 if settings.tiny else 8
    with caches(settings, light=True) as paths:
        (light,) = paths.values()

        def one(*, graphs: bool) -> Figures:
            config = configure(settings, number)
            config.train.graphs = graphs
            batch, steps = next(batches(config, light, device)), Steps(config, device)

            def work() -> None:
                for _ in range(PROFILED):
                    steps(as_loaded(batch))

            work()  # what is made once is not to be seen
            return traced(work, device)

        attempt(figures, f"{PROFILED} steps, {number} clips", lambda: one(graphs=True))


def lines(figures: Figures) -> list[str]:
    """What `measure` found, as text."""
    out = [f"{'':<34}{'load':>9}{'step':>9}{'both':>9}{'it/s':>8}{'40,000 in':>12}"]
    for name, own in figures.items():
        if isinstance(own, dict) and "error" in own:
            out.append(f"{name:<34} {own['error']}")
        elif isinstance(own, dict):
            both = own["load and step"]
            cells = "".join(f"{1000 * own[k]:>9.2f}" for k in ("load", "step", "load and step"))
            out.append(f"{name:<34}{cells}{1 / both:>8.1f}{minutes(both):>12}")
        elif isinstance(own, float):
            out.append(f"{name:<34}{1000 * own:>27.2f}{1 / own:>8.1f}{minutes(own):>12}")
        else:
            out.append(f"{name:<34}{own:>27}")
    return [*out, "(milliseconds)"]


def sweep_lines(figures: Figures) -> list[str]:
    """What `sweeps` found, as text."""
    out, alone = [], figures.get("1 heads", {}).get("s")
    for name, own in figures.items():
        if "error" in own:
            out.append(f"{name}: {own['error']}")
            continue
        heads = int(name.split()[0])
        text = f"{name}: {1000 * own['s']:.2f} ms a batch, {own['MB']} MB"
        if alone:
            text += f"; as many runs of one take {heads * alone / own['s']:.2f} times as long"
        out.append(text)
    return out


def profile_lines(figures: Figures) -> list[str]:
    """What `profiles` found, as text."""
    out = []
    for name, own in figures.items():
        out += [f"{name}: {own['error']}"] if "error" in own else kernel_lines(name, own)
    return out


def minutes(seconds: float) -> str:
    """Of 40,000 iterations."""
    return f"{seconds * ITERATIONS / 60:.1f} min"
