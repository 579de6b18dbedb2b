"""How fast a cache is loaded: ``python -m scripts.bench_cache [--json FILE] [sizes ...]``.

Makes caches of random numbers in a temporary folder, with the sizes of the paper's models unless
told otherwise, and removes them. Measures clips a second out of the training loader (targets
decoded, batches collated), each codec against float16 in turn in the same run. Videos have been
seen once before, and files are in the page cache.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import torch
from torch.utils.data import DataLoader

from cache_schema.host import cli
from cache_schema.host.cli import InputError
from cache_schema.reader import CacheReader
from scripts.measuring import Figures, listed, machine, number, options, ratio, report, table
from scripts.random_caches import EXACT, write_caches
from train.data import ClipDataset, CounterBatches, collate

SIZES = [
    ("videos", 6, "videos of each cache"),
    ("frames", 40, "frames of a video"),
    ("clip", 10, "frames of a clip"),
    ("channels", 256, "channels of the mask features"),
    ("height", 96, "of the mask features"),
    ("width", 160, "of the mask features"),
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
            "loading": loading(caches, sizes),
        }
    lines = [
        listed(figures["machine"]),
        listed(figures["sizes"]),
        "",
        f"training loader, by codec and workers: clips/s, and as a multiple of {EXACT}'s",
        *table(figures["loading"]),
    ]
    return report(figures, lines, sizes.json)


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
