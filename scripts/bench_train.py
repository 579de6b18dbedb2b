"""What a step of training costs, from the cache and with the frozen segmenter in the loop.

    python -m scripts.bench_train [--batch B] [--clip T] [--segmenter PRESET] [--sweep K ...]
                                  [--device X] [--threads N] [--rounds N] [--json FILE] [sizes ...]

Makes caches of random numbers in a temporary folder, with the paper's sizes unless told otherwise,
and removes them. Each of these lives in a process of its own, and they take turns:

    load           read a batch from the cache, masks decoded, ready for the head
    step           one step on a batch in memory, as it came from the cache
    load and step  what training does
    segmenter      load and step with VITA of random weights in the loop, as without a cache: frame
                   queries, mask features and video queries of the clip's frames anew. Frames are in
                   memory: decoding them, and the text encoder, are left out
    sweep of K     load a batch once, and K heads take a step on it

A turn is five seconds of work or more, for in training one step follows the other. Ratios are
medians over rounds of things measured in the same round. Memory is the peak of each process beyond
what it held with model and batch before the first step, and in all; gradients and the optimiser's
state count as beyond. On a GPU it is the memory that torch allocated there.
"""

import argparse
import os
import resource
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import torch
from mmengine.config import Config

from cache_schema.codecs import get_codec
from cache_schema.host import cli
from cache_schema.host.cli import InputError
from cache_schema.reader import CacheReader
from extract.config import load_config as load_extract_config
from extract.stage import RANDOM, Stage, load_stage
from scripts.measuring import (
    Figures,
    listed,
    machine,
    number,
    options,
    ratio,
    report,
    seconds_each,
    table,
)
from scripts.random_caches import EXACT, write_caches
from train.config import load_config
from train.data import Batch
from train.heads import CacheSizes
from train.masks.logits import MaskFeatures
from train.memory import keep_freed_memory
from train.params import usual_sizes
from train.runner import build_dataset, build_loader, on_device
from train.trainable import TrainableHead, build_optimizer, build_trainable

BASE = Path(__file__).parents[1] / "train" / "configs" / "base.py"
ITERATIONS = 40_000
LOAD, STEP, TRAIN, LOOP = "load", "step", "load and step", "segmenter"
SIZES = [
    ("batch", 1, "clips a batch"),
    ("clip", 10, "frames of a clip, T"),
    ("channels", 256, "C, of queries and mask features"),
    ("height", 96, "of the mask features; of the frames a quarter"),
    ("width", 160, "of the mask features"),
    ("queries", 20, "motion queries, N_m"),
    ("layers", 6, "of the decoder"),
    ("points", 12544, "of the loss"),
    ("videos", 3, "of each cache"),
    ("frames", 12, "of a video"),
    ("threads", 1, "of each process"),
    ("rounds", 5, "of each measurement"),
]
Work = Callable[[], Any]


def main(argv: list[str]) -> int:
    """Command line; see the module's docstring."""
    arguments = parse(argv)
    with tempfile.TemporaryDirectory(dir=arguments.dir) as folder:
        figures = measure(write_caches(Path(folder), arguments), arguments)
    return report(figures, lines(figures, arguments.sweep), arguments.json)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The options, with the paper's sizes as defaults."""
    parser = options("bench_train", __doc__, SIZES)
    parser.add_argument(
        "--workers", type=int, help="that load, as data.num_workers; chosen by the device"
    )
    # In training, one step follows the other.
    parser.add_argument("--turn", type=float, default=5.0, help="seconds of a turn at least")
    number(parser, "ranks", [64], "of low-rank caches", nargs="*")
    number(parser, "sweep", [8], "heads of each sweep", nargs="*")
    parser.add_argument("--autocast", default="none", help="as train.autocast")
    parser.add_argument(
        "--segmenter", default="mevis_r50", help="a preset of extract, or none (default mevis_r50)"
    )
    parser.add_argument("--device", help="cuda or cpu; cuda if there is one")
    parser.add_argument("--dir", help="where the temporary folder is made")
    arguments = parser.parse_args(argv)
    arguments.device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if arguments.clip > arguments.frames:
        raise InputError(
            f"--clip {arguments.clip} is more than a video has frames ({arguments.frames}); give a "
            "smaller one, or more --frames"
        )
    return arguments


def measure(caches: dict[str, Path], arguments: argparse.Namespace) -> Figures:
    """Everything that the table says; times in seconds, one a round."""
    jobs: dict[str, tuple[str | int, Path]] = {
        f"{kind}, {name}": (kind, path)
        for name, path in caches.items()
        for kind in (LOAD, STEP, TRAIN)
    }
    jobs |= {
        f"sweep of {heads}, {name}": (heads, path)
        for heads in arguments.sweep
        for name, path in caches.items()
    }
    if arguments.segmenter != "none":
        jobs[LOOP] = LOOP, caches[EXACT]
    context = get_context("forkserver")
    context.set_forkserver_preload([__spec__.name])  # so that the libraries are loaded once
    with ExitStack() as stack:
        pools = {what: stack.enter_context(ProcessPoolExecutor(1, context)) for what in jobs}

        def ask(what: str, question: Callable[..., Any], *about: Any) -> Any:
            try:
                return pools[what].submit(question, *about).result()
            except BrokenProcessPool:
                raise InputError(f"the process that measures {what!r} ended; see above") from None

        for what, job in jobs.items():  # one after the other: they share the cores later only
            ask(what, prepare, *job, arguments)
        rounds = [  # the first one warms up
            {what: ask(what, take_turn, arguments.turn) for what in jobs}
            for _ in range(1 + arguments.rounds)
        ]
        return {
            "machine": machine(arguments.device),
            "sizes": {n: v for n, v in vars(arguments).items() if n not in ("json", "dir")},
            "seconds": {what: [own[what] for own in rounds[1:]] for what in jobs},
            "memory": {what: ask(what, memory_used) for what in jobs},
        }


def prepare(kind: str | int, path: Path, arguments: argparse.Namespace) -> None:
    """In a process of its own: make what is measured, a kind or so many heads of a sweep."""
    global work, device, held
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()
    device = torch.device(arguments.device)
    work = make(kind, path, arguments, device)
    held = memory(device)[0]


def take_turn(seconds: float) -> float:
    """Seconds of a call, from so many seconds of work at least."""
    return seconds_each(work, device, turn=seconds, warm_up=0, least=1, wait=True)


def memory_used() -> dict[str, int]:
    """Bytes at most, beyond what was held before the first turn and in all."""
    peak = memory(device)[1]
    return {"beyond": peak - held, "peak": peak}


def memory(device: torch.device) -> tuple[int, int]:
    """Bytes of this process now and at most."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(), torch.cuda.max_memory_allocated()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if sys.platform == "darwin":  # bytes there, and no cheap way to ask for the present
        return peak, peak
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE"), peak * 1024


def make(kind: str | int, path: Path, arguments: argparse.Namespace, device: torch.device) -> Work:
    """What is measured, as a call."""
    config = head_config(arguments)
    batches = load(config, path, device)
    if kind == LOAD:
        return lambda: next(batches)
    steps = [Steps(config, device, seed) for seed in range(kind if isinstance(kind, int) else 1)]
    if kind == STEP:
        batch = next(batches)
        return lambda: steps[0](as_loaded(batch))
    if kind == LOOP:
        return in_the_loop(steps[0], batches, arguments, arguments.segmenter, device)

    def load_and_step() -> None:
        batch = next(batches)
        for step in steps:
            step(batch)

    return load_and_step


def load(config: Config, path: Path, device: torch.device) -> Iterator[Batch]:
    """Batches without end on the device, as training loads them."""
    loader = build_loader(config, build_dataset([config], [CacheReader(path)], device))
    return iter(on_device(loader, device))


def head_config(arguments: argparse.Namespace) -> Config:
    """The paper's head, but of the sizes asked for."""
    config = load_config(BASE)
    config.model.hidden_dim = config.model.mask_dim = arguments.channels
    config.model.num_motion_queries = arguments.queries
    config.model.num_layers = arguments.layers
    config.loss.num_points = arguments.points
    config.train.autocast = arguments.autocast
    config.train.batch_size = arguments.batch
    config.data.num_workers = arguments.workers
    return config


class Steps:
    """A head that takes steps, with an optimiser of its own."""

    def __init__(
        self, config: Config, device: torch.device, seed: int = 0, sizes: CacheSizes | None = None
    ) -> None:
        config = config.copy()
        config.train.seed = seed
        sizes = sizes or usual_sizes(config)
        self.model: TrainableHead = build_trainable(config, sizes, device).train()
        self.optimizer = build_optimizer(config, self.model)
        self.iteration = 0

    def __call__(self, batch: Batch) -> dict[str, torch.Tensor]:
        self.iteration += 1
        return self.model.step(batch, self.optimizer, self.iteration - 1)


def as_loaded(batch: Batch) -> Batch:
    """The batch without what was prepared for an earlier step."""
    features = [MaskFeatures(own.stored, own.codec) for own in batch.mask_features]
    return Batch(batch.inputs, features, batch.targets, batch.overlaps, batch.ids)


def in_the_loop(
    steps: Steps,
    batches: Iterator[Batch],
    sizes: argparse.Namespace,
    preset: str,
    device: torch.device,
) -> Work:
    """A step with the frozen segmenter of random weights in the loop."""
    stage = load_stage(load_extract_config(preset, {}), RANDOM, str(device), has_text=False)
    shape = (sizes.batch, sizes.clip, 3, 4 * sizes.height, 4 * sizes.width)
    images = torch.rand(shape, device=device)
    return lambda: steps(segmented(stage, images, next(batches)))


def segmented(stage: Stage, images: torch.Tensor, batch: Batch) -> Batch:
    """The batch with what the segmenter says of its frames (B, T, 3, H, W), not the cache."""
    together = 8 if images.is_cuda else 1
    frames = [stage.segmenter.frames(chunk)[0] for chunk in images.flatten(0, 1).split(together)]
    queries = torch.cat([frame.frame_queries for frame in frames]).unflatten(0, images.shape[:2])
    videos = stage.segmenter.video(queries)
    features = torch.cat([frame.mask_features for frame in frames]).unflatten(0, images.shape[:2])
    # Clones, for the segmenter's tensors cannot take part in a gradient.
    inputs = replace(
        batch.inputs,
        frame_queries=queries.clone(),
        video_queries=videos.video_queries.clone(),
        video_logits=videos.logits.clone(),
    )
    exact = get_codec("float32")
    maps = [MaskFeatures({"values": own}, exact) for own in features]
    return Batch(inputs, maps, batch.targets, batch.overlaps)


def lines(figures: Figures, sweeps: Sequence[int]) -> list[str]:
    """What was measured, as text."""
    seconds, rows = figures["seconds"], {}
    for what, times in seconds.items():
        row = rows[what] = {"ms": 1000 * median(times)}
        if LOOP in seconds:
            row["segmenter /"] = ratio(seconds[LOOP], times)
        if what.startswith(f"{LOAD}, "):
            row[f"{EXACT} /"] = ratio(seconds[f"{LOAD}, {EXACT}"], times)
        row |= {f"MB {k}": size // 10**6 for k, size in figures["memory"][what].items()}
        row[f"h for {ITERATIONS:,}"] = median(times) * ITERATIONS / 3600
    singles = [
        f"{what}: {heads} single runs take "
        f"{heads * ratio(seconds[f'{TRAIN}, {name}'], times):.2f} times it"
        for what, times in seconds.items()
        for heads in sweeps
        for prefix, _, name in [what.partition(", ")]
        if prefix == f"sweep of {heads}"
    ]
    return [listed(figures["machine"]), listed(figures["sizes"]), "", *table(rows), *singles]


if __name__ == "__main__":
    sys.exit(cli.run(main))
