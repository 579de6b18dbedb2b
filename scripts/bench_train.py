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
import json
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.config import Config

from cache_schema.codecs import Codec, get_codec
from cache_schema.host import cli, files
from cache_schema.host.cli import InputError
from cache_schema.reader import CacheReader
from cache_schema.writer import CacheWriter
from extract.config import load_config as load_extract_config
from extract.stage import RANDOM, Stage, load_stage
from scripts.bench_cache import ORIGIN, codecs, machine, write_video
from train.config import load_config
from train.data import Batch
from train.masks.logits import MaskFeatures
from train.memory import keep_freed_memory
from train.params import usual_sizes
from train.runner import build_dataset, build_loader, on_device
from train.trainable import TrainableHead, build_optimizer, build_trainable

BASE = Path(__file__).parents[1] / "train" / "configs" / "base.py"
ITERATIONS = 40_000
LOAD, STEP, TRAIN, LOOP, SWEEP = "load", "step", "load and step", "segmenter", "sweep of"
Work = Callable[[], Any]


def main(argv: list[str]) -> int:
    """Command line; see the module's docstring."""
    arguments = parse(argv)
    with tempfile.TemporaryDirectory(dir=arguments.dir) as folder:
        caches = {}
        for codec in codecs(arguments):
            name = f"{codec.name} R={codec.basis.rank}" if codec.basis else codec.name
            caches[name] = Path(folder) / name.replace(" ", "-")
            write(caches[name], codec, arguments)
        figures = measure(caches, arguments)
    print("\n".join(lines(figures)))
    if arguments.json:
        files.write(Path(arguments.json), json.dumps(figures, indent=1) + "\n")
    return 0


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The options, with the paper's sizes as defaults."""
    parser = argparse.ArgumentParser(prog="python -m scripts.bench_train", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    for name, default, what in [
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
    ]:
        parser.add_argument(
            f"--{name}", type=int, default=default, help=f"{what} (default {default})"
        )
    parser.add_argument(
        "--workers", type=int, help="that load, as data.num_workers; chosen by the device"
    )
    # In training, one step follows the other.
    parser.add_argument("--turn", type=float, default=5.0, help="seconds of a turn at least")
    parser.add_argument("--ranks", type=int, nargs="*", default=[64], help="of low-rank caches")
    parser.add_argument("--sweep", type=int, nargs="*", default=[8], help="heads of each sweep")
    parser.add_argument("--autocast", default="none", help="as train.autocast")
    parser.add_argument(
        "--segmenter", default="mevis_r50", help="a preset of extract, or none (default mevis_r50)"
    )
    parser.add_argument("--device", help="cuda or cpu; cuda if there is one")
    parser.add_argument("--dir", help="where the temporary folder is made")
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args(argv)
    arguments.device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    numbers = {n: value for n, value in vars(arguments).items() if type(value) is int}
    for name, value in numbers.items():
        if value < (name != "workers"):
            raise InputError(f"--{name} is {value}: give at least {int(name != 'workers')}")
    if arguments.clip > arguments.frames:
        raise InputError(
            f"--clip {arguments.clip} is more than a video has frames ({arguments.frames}); give a "
            "smaller one, or more --frames"
        )
    return arguments


def write(path: Path, codec: Codec, sizes: argparse.Namespace) -> None:
    """A cache of random numbers, its mask features as smooth as a network's."""
    rng = np.random.default_rng(0)
    coarse = rng.standard_normal((sizes.channels, 12, 20)).astype(np.float32)
    features = np.stack([cv2.resize(plane, (sizes.width, sizes.height)) for plane in coarse])
    frame = {name: array[0] for name, array in codec.encode(features[None]).items()}
    with CacheWriter(
        path,
        fingerprint={"codec": codec.describe()},
        dataset="random",
        split="train",
        codec=codec,
        **ORIGIN,
        shard_bytes=1 << 30,
    ) as writer:
        for video in range(sizes.videos):
            write_video(writer, f"video{video}", frame, rng, sizes)


def measure(caches: dict[str, Path], arguments: argparse.Namespace) -> dict[str, Any]:
    """Everything that the table says; times in seconds, one a round."""
    first = next(iter(caches))
    places = {f"{what}, {name}": caches[name] for name in caches for what in (LOAD, STEP, TRAIN)}
    places |= {
        f"{SWEEP} {k}, {name}": path for k in arguments.sweep for name, path in caches.items()
    }
    if arguments.segmenter != "none":
        places[LOOP] = caches[first]
    context = get_context("spawn")
    pipes, processes = {}, []
    for what, path in places.items():
        pipes[what], other = context.Pipe()
        processes.append(
            context.Process(target=serve, args=(other, what, path, arguments), daemon=True)
        )
        processes[-1].start()
        other.close()
        answer(pipes[what], what)  # one after the other, so that they share the cores later only
    seconds: dict[str, list[float]] = {what: [] for what in places}
    for number in range(-1, arguments.rounds):  # the first round warms up
        for what, pipe in pipes.items():
            pipe.send("work")
            took = answer(pipe, what)
            if number >= 0:
                seconds[what].append(took)
    memory = {}
    for what, pipe in pipes.items():
        pipe.send("end")
        memory[what] = answer(pipe, what)
    for process in processes:
        process.join()
    used = torch.cuda.get_device_name() if arguments.device == "cuda" else "cpu"
    return {
        "machine": {**machine(), "device": used},
        "sizes": {n: v for n, v in vars(arguments).items() if n not in ("json", "dir")},
        "seconds": seconds,
        "memory": memory,
    }


def answer(pipe: Connection, what: str) -> Any:
    """What a process says."""
    try:
        return pipe.recv()
    except EOFError:
        raise InputError(f"the process that measures {what!r} ended; see above") from None


def serve(pipe: Connection, what: str, path: Path, arguments: argparse.Namespace) -> None:
    """A process: make what is measured, then work when asked to."""
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()
    device = torch.device(arguments.device)
    work = make(what, path, arguments, device)
    held = memory(device)[0]
    pipe.send("ready")
    while pipe.recv() == "work":
        start, count = time.perf_counter(), 0
        while count == 0 or time.perf_counter() - start < arguments.turn:
            work()
            if device.type == "cuda":
                torch.cuda.synchronize()
            count += 1
        pipe.send((time.perf_counter() - start) / count)
    peak = memory(device)[1]
    pipe.send({"beyond": peak - held, "peak": peak})


def memory(device: torch.device) -> tuple[int, int]:
    """Bytes of this process now and at most."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(), torch.cuda.max_memory_allocated()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if sys.platform == "darwin":  # bytes there, and no cheap way to ask for the present
        return peak, peak
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE"), peak * 1024


def make(what: str, path: Path, arguments: argparse.Namespace, device: torch.device) -> Work:
    """What is measured, as a call."""
    batches = load(path, arguments, device)
    if what.startswith(LOAD) and not what.startswith(TRAIN):
        return lambda: next(batches)
    config = head_config(arguments)
    if what.startswith(SWEEP):
        count = int(what.removeprefix(SWEEP).split(",")[0])
        return training(batches, [Steps(config, device, seed) for seed in range(count)])
    steps = Steps(config, device)
    if what.startswith(TRAIN):
        return training(batches, [steps])
    if what == LOOP:
        stage = load_stage(
            load_extract_config(arguments.segmenter, {}), RANDOM, arguments.device, has_text=False
        )
        images = torch.rand(
            arguments.batch, arguments.clip, 3, 4 * arguments.height, 4 * arguments.width,
            device=device,
        )  # fmt: skip
        return lambda: steps(segmented(stage, images, next(batches)))
    batch = next(batches)
    return lambda: steps(as_loaded(batch))


def load(path: Path, arguments: argparse.Namespace, device: torch.device) -> Iterator[Batch]:
    """Batches without end on the device, as training loads them."""
    config = head_config(arguments)
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

    def __init__(self, config: Config, device: torch.device, seed: int = 0) -> None:
        config = config.copy()
        config.train.seed = seed
        self.model: TrainableHead = build_trainable(config, usual_sizes(config), device).train()
        self.optimizer = build_optimizer(config, self.model)
        self.iteration = 0

    def __call__(self, batch: Batch) -> None:
        self.model.step(batch, self.optimizer, self.iteration)
        self.iteration += 1


def training(batches: Iterator[Batch], heads: Sequence[Steps]) -> Work:
    """Load a batch, and a step of each head."""

    def work() -> None:
        batch = next(batches)
        for head in heads:
            head(batch)

    return work


def as_loaded(batch: Batch) -> Batch:
    """The batch without what was prepared for an earlier step."""
    features = [MaskFeatures(own.stored, own.codec) for own in batch.mask_features]
    return Batch(batch.inputs, features, batch.targets, batch.overlaps)


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


def lines(figures: dict[str, Any]) -> list[str]:
    """What was measured, as text."""
    sizes, seconds, memory = figures["sizes"], figures["seconds"], figures["memory"]
    out = [
        ", ".join(f"{name} {value}" for name, value in figures["machine"].items()),
        ", ".join(f"{name} {value}" for name, value in sizes.items()),
        "",
        f"{'':<34}{'ms':>9}{'segmenter /':>13}{'MB beyond':>11}{'MB':>8}{'h for 40,000':>14}",
    ]
    for what, times in seconds.items():
        median = statistics.median(times)
        row = f"{what:<34}{1000 * median:>9.1f}"
        row += f"{ratio(seconds[LOOP], times):>13.1f}" if LOOP in seconds else f"{'':>13}"
        row += "".join(f"{memory[what][k] / 1e6:>{n}.0f}" for k, n in (("beyond", 11), ("peak", 8)))
        out.append(row + f"{median * ITERATIONS / 3600:>14.2f}")
    for what, times in seconds.items():
        if what.startswith(SWEEP):
            count, _, name = what.removeprefix(SWEEP).partition(", ")
            single = [int(count) * took for took in seconds[f"{TRAIN}, {name}"]]
            out.append(f"{what}: {int(count)} single runs take {ratio(single, times):.2f} times it")
    return out


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The median over rounds."""
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


if __name__ == "__main__":
    sys.exit(cli.run(main))
