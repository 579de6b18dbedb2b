"""How fast a cache is read: ``python -m scripts.bench_cache [--json FILE] [sizes ...]``.

Makes caches of random numbers in a temporary folder, with the sizes of the paper's models unless
told otherwise, measures, and removes them. Two questions, each answered by a ratio of things
measured in turn in the same run:

1. Random clips of mask features through `CacheReader`, against `os.preadv` of the same byte
   ranges. Reading into memory that was never touched is several times slower than into a buffer
   that is used again, so each is compared with its like.
2. Clips a second out of the training loader (targets decoded, batches collated), each codec
   against float16. Videos have been seen once before, and files are in the page cache.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import h5py
import numpy as np
import torch
from torch.utils.data import DataLoader

from cache_schema.host import cli
from cache_schema.host.cli import InputError
from cache_schema.reader import CacheReader
from scripts.measuring import Figures, listed, machine, number, options, ratio, report, table
from scripts.random_caches import EXACT, write_caches
from train.data import ClipDataset, CounterBatches, collate

MEMORY = ("used again", "new")
WAYS = tuple((how, memory) for memory in MEMORY for how in ("reader", "preadv"))
SIZES = [
    ("videos", 6, "videos of each cache"),
    ("frames", 40, "frames of a video"),
    ("clip", 10, "frames of a clip"),
    ("channels", 256, "channels of the mask features"),
    ("height", 96, "of the mask features"),
    ("width", 160, "of the mask features"),
    ("processes", 2, "that read clips at a time"),
    ("batch", 4, "clips a batch of the loader"),
    ("rounds", 5, "of each measurement; medians are reported"),
]


def main(argv: list[str]) -> int:
    """Command line; see the module's docstring."""
    parser = options("bench_cache", __doc__, SIZES)
    number(parser, "ranks", [16, 32, 64], "of the low-rank codec", nargs="+")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2], help="of the loader")
    parser.add_argument("--dir", help="where the temporary folder is made")
    sizes = parser.parse_args(argv)
    if sizes.frames < sizes.clip:
        raise InputError(f"--frames is {sizes.frames}: give at least {sizes.clip}, as --clip")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=sizes.dir) as folder:
        caches = write_caches(Path(folder), sizes)
        figures = {
            "machine": machine(),
            "sizes": {name: value for name, value in vars(sizes).items() if name != "json"},
            "reading": reading(caches[EXACT], sizes),
            "loading": loading(caches, sizes),
        }
    lines = [
        listed(figures["machine"]),
        listed(figures["sizes"]),
        "",
        f"random clips, {EXACT}, by memory: GB/s of all processes together, from the page cache",
        *table(figures["reading"]),
        "",
        f"training loader, by codec and workers: clips/s, and as a multiple of {EXACT}'s",
        *table(figures["loading"]),
    ]
    return report(figures, lines, sizes.json)


def reading(path: Path, sizes: argparse.Namespace) -> Figures:
    """GB a second of random clips, all processes together, by memory."""
    context = get_context("spawn")
    barrier = context.Barrier(sizes.processes, timeout=300)  # seconds: one that fails ends all
    with ProcessPoolExecutor(
        sizes.processes, context, initializer=meet_at, initargs=(barrier,)
    ) as pool:
        jobs = [pool.submit(read_clips, path, sizes, n) for n in range(sizes.processes)]
        rows = [job.result() for job in jobs]
    # A round of all processes lasts as long as the slowest.
    seconds = {way: np.max([own[way] for own, _ in rows], axis=0) for way in WAYS}
    gigabytes = sizes.processes * rows[0][1] / 1e9
    return {
        memory: {
            **{how: gigabytes / median(seconds[how, memory]) for how in ("reader", "preadv")},
            "ratio": ratio(seconds["preadv", memory], seconds["reader", memory]),
        }
        for memory in MEMORY
    }


def meet_at(barrier: Any) -> None:
    """Where the processes wait for each other; it can only be handed over when they start."""
    global together
    together = barrier


def read_clips(
    path: Path, sizes: argparse.Namespace, number: int
) -> tuple[dict[tuple[str, str], list[float]], int]:
    """One process: read the same random clips in every way, in turn, all processes at a time.

    Returns:
        Seconds of each way and round, and how many bytes a clip has.
    """
    reader = CacheReader(path)
    places = [frame_places(path, reader, video_id) for video_id in reader.video_ids]
    extent, *_ = reader.video(reader.video_ids[0]).mask_extents().values()
    buffer = np.zeros((sizes.clip, *extent.row_shape), extent.dtype)
    flat = buffer.reshape(-1).view(np.uint8).reshape(sizes.clip, extent.row_bytes)

    def preadv(video: int, frames: np.ndarray, into: np.ndarray) -> None:
        descriptor, starts = places[video]
        for row, t in zip(into, frames, strict=True):
            if os.preadv(descriptor, [row], starts[t]) != extent.row_bytes:
                raise OSError("a short read")

    def cached(video: int, frames: np.ndarray, into: dict[str, np.ndarray] | None) -> None:
        reader.video(reader.video_ids[video]).mask_features(frames, out=into)

    ways: dict[tuple[str, str], Callable[[int, np.ndarray], None]] = {
        ("reader", "used again"): lambda *clip: cached(*clip, {"values": buffer}),
        ("preadv", "used again"): lambda *clip: preadv(*clip, flat),
        ("reader", "new"): lambda *clip: cached(*clip, None),
        ("preadv", "new"): lambda *clip: preadv(*clip, np.empty(flat.shape, np.uint8)),
    }
    rng, orders = np.random.default_rng(number), np.random.default_rng(0)
    seconds: dict[tuple[str, str], list[float]] = {way: [] for way in WAYS}
    # Many short rounds, so that noise hits all ways alike; the first warms up.
    for measured in range(-1, 12 * sizes.rounds):
        clip = int(rng.integers(len(places))), rng.choice(sizes.frames, sizes.clip, False)
        clip[1].sort()
        # The first to read a clip brings it into the processor's cache: each way has its turns.
        for turn in orders.permutation(len(WAYS)):
            together.wait()
            start = time.perf_counter()
            ways[WAYS[turn]](*clip)
            if measured >= 0:
                seconds[WAYS[turn]].append(time.perf_counter() - start)
    return seconds, flat.nbytes


def frame_places(path: Path, reader: CacheReader, video_id: str) -> tuple[int, list[int]]:
    """A descriptor of a video's shard and the offset of each frame, found without the package."""
    shard = path / reader.entries[video_id].shard
    with h5py.File(shard) as file:
        values = file["videos"][video_id]["mask_features/values"].id
        starts = [
            values.get_chunk_info_by_coord((t, 0, 0, 0)).byte_offset for t in range(values.shape[0])
        ]
    return os.open(shard, os.O_RDONLY), starts


def loading(caches: dict[str, Path], sizes: argparse.Namespace) -> Figures:
    """Clips a second of the training loader, by codec and number of workers."""
    rows = {}
    for workers in sizes.workers:
        seconds: dict[str, list[float]] = {name: [] for name in caches}
        datasets = {name: ClipDataset([CacheReader(p)], seed=0) for name, p in caches.items()}
        batches = max(len(d) for d in datasets.values()) // sizes.batch
        for measured in range(-1, sizes.rounds):
            for name, dataset in datasets.items():
                took = epoch(dataset, batches, workers, sizes.batch)
                if measured >= 0:
                    seconds[name].append(took)
        for name in caches:
            rows[f"{name}, {workers} workers"] = {
                "clips/s": batches * sizes.batch / median(seconds[name]),
                f"x {EXACT}": ratio(seconds[EXACT], seconds[name]),
            }
    return rows


def epoch(dataset: ClipDataset, batches: int, workers: int, size: int) -> float:
    """Seconds that an epoch's batches take, from the first one's arrival on with workers."""
    # Workers are forked anew each time and inherit what the dataset knows of its videos.
    ahead = 2 * workers
    loader = DataLoader(
        dataset,
        batch_sampler=CounterBatches(size, batches + ahead),
        collate_fn=collate,
        num_workers=workers,
    )
    start = time.perf_counter()
    for k, _ in enumerate(loader):
        if k == ahead - 1:
            start = time.perf_counter()
    return time.perf_counter() - start


if __name__ == "__main__":
    sys.exit(cli.run(main))
