"""How fast stage one is: the bare model, and the whole of stage one.

    python -m scripts.bench_extract [CONFIG] [--data-root D --split S] [--weights W]
                                    [--threads N] [--chunk-frames N] [--device X] [--json FILE]

Without --data-root it draws videos of noise (--videos, --frames, --size). The bare model is the
segmenter on prepared frames, its clips included; stage one is `python -m extract` from images to
sealed shards, models loaded. They take turns on the same videos, --repeats times, and each turn of
stage one lies between two of the bare model, with whose mean it is compared. The table gives
medians.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import cv2
import numpy as np
import torch

from cache_schema.host import cli
from cache_schema.host.cli import InputError
from cache_schema.host.cores import model_threads
from cache_schema.host.launch import SINGLE
from extract.__main__ import find_device
from extract.config import ExtractConfig, load_config
from extract.datasets import open_dataset
from extract.pipeline.inference import infer
from extract.pipeline.parts import Clips, Failed
from extract.pipeline.reading import read
from extract.pipeline.run import extract
from extract.stage import RANDOM, load_stage
from scripts.measuring import (
    Figures,
    exhaust,
    listed,
    machine,
    number,
    options,
    report,
    synchronise,
    table,
)

SIZES = [("videos", 2, "to draw"), ("frames", 8, "of a drawn video"), ("repeats", 2, "turns")]


def main(argv: list[str]) -> int:
    """Command line; see the module's docstring."""
    parser = options("bench_extract", __doc__, SIZES)
    parser.add_argument("config", nargs="?", default="demo", help="a preset or a file")
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--split")
    parser.add_argument("--weights", default=RANDOM)
    number(parser, "size", (480, 854), "of a drawn frame", nargs=2, metavar=("H", "W"))
    number(parser, "threads", model_threads(), "of the model")
    number(parser, "chunk-frames", None, "chosen by their size")
    parser.add_argument("--autocast", default="none")
    parser.add_argument("--device", help="cuda or cpu; cuda if there is one")
    parser.add_argument("--cfg-options", nargs="+", default=[], metavar="K=V")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    keys = dict(option.split("=", 1) for option in arguments.cfg_options if "=" in option)
    with tempfile.TemporaryDirectory() as folder:
        root = arguments.data_root
        if root is None:
            root, keys["dataset"] = Path(folder) / "videos", "folder"
            draw(root, arguments.videos, arguments.frames, *arguments.size)
        figures = measure(load_config(arguments.config, keys), root, Path(folder), arguments)
    return report(figures, lines(figures), arguments.json)


def draw(root: Path, videos: int, frames: int, height: int, width: int) -> None:
    """Folders of JPEG files of smooth noise."""
    rng = np.random.default_rng(0)
    for k in range(videos):
        folder = root / f"video{k}"
        folder.mkdir(parents=True)
        for t in range(frames):
            coarse = rng.integers(0, 256, (height // 16 + 1, width // 16 + 1, 3), np.uint8)
            cv2.imwrite(str(folder / f"{t:05d}.jpg"), cv2.resize(coarse, (width, height)))


def measure(
    config: ExtractConfig, root: Path, scratch: Path, arguments: argparse.Namespace
) -> Figures:
    """Everything that the table says; times in seconds, one a turn."""
    dataset = open_dataset(config.dataset, root, arguments.split, config.dataset_settings)
    device = find_device(arguments.device, SINGLE)
    how = {"chunk_frames": arguments.chunk_frames, "autocast": arguments.autocast}
    stage = load_stage(config, arguments.weights, device, has_text=dataset.facts.has_text, **how)
    bare, whole = [], []

    def bare_model() -> None:
        """Run it until the device is done with it as well."""
        start = time.perf_counter()
        exhaust(infer(stage, prepared))
        synchronise(stage.segmenter.device)
        bare.append(time.perf_counter() - start)

    prepared = list(read(stage, dataset, dataset.ids))
    failed = [part.reason for _, part in prepared if isinstance(part, Failed)]
    if failed:
        raise InputError(f"measure with data that is whole: {failed[0]}")
    results = list(infer(stage, prepared))
    for turn in range(arguments.repeats):
        bare_model()
        summary = extract(
            config, data_root=root, split=arguments.split, weights=arguments.weights,
            out=scratch / f"whole{turn}", device=device, **how,
        )  # fmt: skip
        if summary.failures:
            raise InputError(f"measure with data that is whole: {summary.failures}")
        whole.append(summary.seconds)
    bare_model()
    clips = [part for _, part in results if isinstance(part, Clips)]
    return {
        "machine": machine(device),
        "config": arguments.config, "codec": config.codec, **how, "threads": arguments.threads,
        "videos": len(clips), "frames": summary.frames,
        "clips": sum(len(part.bank) for part in clips),
        "seconds": {"bare model": bare, "stage one": whole},
        "ratios": [(bare[k] + bare[k + 1]) / 2 / whole[k] for k in range(len(whole))],
    }  # fmt: skip


def lines(figures: Figures) -> list[str]:
    """Medians, and what share of the bare model's time each part takes."""
    medians = {name: median(times) for name, times in figures["seconds"].items()}
    rows = {
        name: {
            "s": seconds,
            "frames/s": figures["frames"] / seconds,
            "of the model": seconds / medians["bare model"],
        }
        for name, seconds in medians.items()
    }
    said = ("config", "threads", "chunk_frames", "autocast", "videos", "frames", "clips")
    out = [listed(figures["machine"]), listed({n: figures[n] for n in said}), "", *table(rows)]
    turns = ", ".join(f"{100 * share:.0f}%" for share in figures["ratios"])
    return [*out, f"stage one runs at {turns} of the bare model's frames/s (by turn)"]


if __name__ == "__main__":
    sys.exit(cli.run(main))
