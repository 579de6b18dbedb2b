"""How fast stage one is: the bare model, the whole of stage one, and each of its parts alone.

    python -m scripts.bench_extract [CONFIG] [--data-root D --split S] [--weights W]
                                    [--threads N] [--chunk-frames N] [--device X] [--json FILE]

Without --data-root it draws videos of noise (--videos, --frames, --size). The bare model is VITA on
prepared frames, its clips included; stage one is `python -m extract` from images to a sealed cache.
They take turns on the same videos, --repeats times; the table gives the median of each, and the
lowest and highest ratio of stage one to the bare model of its turn. The parts run alone, one after
the other, each on what the one before it made.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import transformers

from cache_schema import cli
from cache_schema.cli import InputError
from cache_schema.codecs import LOWRANK, Codec, get_codec
from cache_schema.writer import CacheWriter
from extract.__main__ import find_device
from extract.calibration import fit_codec
from extract.coding import code
from extract.config import ExtractConfig, load_config
from extract.datasets import open_dataset
from extract.inference import infer, video_level
from extract.parts import Clips, Frames
from extract.pipeline import extract
from extract.ranks import Rank
from extract.reading import read
from extract.stage import RANDOM, Stage, load_stage
from extract.writing import write

Parts = list[tuple[str, Any]]
MAIN = ("bare model", "stage one")


def main(argv: list[str]) -> int:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.bench_extract",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", nargs="?", default="demo", help="a preset or a file")
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--split")
    parser.add_argument("--weights", default=RANDOM)
    parser.add_argument("--videos", type=int, default=2, help="to draw")
    parser.add_argument("--frames", type=int, default=8, help="of a drawn video")
    parser.add_argument("--size", type=int, nargs=2, default=(480, 854), metavar=("H", "W"))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--chunk-frames", type=int, default=8)
    parser.add_argument("--autocast", default="none")
    parser.add_argument("--device", help="cuda or cpu; cuda if there is one")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--cfg-options", nargs="+", default=[], metavar="K=V")
    arguments = parser.parse_args(argv)
    least = min(arguments.videos, arguments.frames, arguments.threads, arguments.repeats)
    if min(least, arguments.chunk_frames, *arguments.size) < 1:
        raise InputError("--videos, --frames, --size, --threads, --repeats need to be at least 1")
    torch.set_num_threads(arguments.threads)
    options = dict(option.split("=", 1) for option in arguments.cfg_options if "=" in option)
    with tempfile.TemporaryDirectory() as folder:
        root, split = arguments.data_root, arguments.split
        if root is None:
            root, options["dataset"] = Path(folder) / "videos", "folder"
            draw(root, arguments.videos, arguments.frames, *arguments.size)
        config = load_config(arguments.config, options)
        figures = measure(config, root, split, Path(folder), arguments)
    print(table(figures))
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n", "utf-8")
    return 0


def draw(root: Path, videos: int, frames: int, height: int, width: int) -> None:
    """Folders of JPEG files of smooth noise."""
    rng = np.random.default_rng(0)
    for number in range(videos):
        folder = root / f"video{number}"
        folder.mkdir(parents=True)
        for t in range(frames):
            coarse = rng.integers(0, 256, (height // 16 + 1, width // 16 + 1, 3), np.uint8)
            cv2.imwrite(str(folder / f"{t:05d}.jpg"), cv2.resize(coarse, (width, height)))


def measure(
    config: ExtractConfig,
    root: Path,
    split: str | None,
    scratch: Path,
    arguments: argparse.Namespace,
) -> dict[str, Any]:
    """Everything that the table says; times in seconds, one a turn."""
    dataset = open_dataset(config.dataset, root, split, config.dataset_settings)
    device = find_device(arguments.device, Rank())
    how = {"chunk_frames": arguments.chunk_frames, "autocast": arguments.autocast}
    stage = load_stage(
        config, arguments.weights, device, has_text=config.dataset != "folder", **how
    )
    name = config.codec["name"]
    codec = fit_codec(stage, dataset, 0) if name == LOWRANK else get_codec(name)
    list(infer(stage, read(stage, dataset, dataset.ids[:1])))  # warm up
    seconds: dict[str, list[float]] = {}

    def timed(what: str, run: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        made = run()
        if stage.vita.device.type == "cuda":
            torch.cuda.synchronize()
        seconds.setdefault(what, []).append(time.perf_counter() - start)
        return made

    for turn in range(arguments.repeats):
        prepared = timed("read and decode", lambda: list(read(stage, dataset, dataset.ids)))
        results = timed("bare model", lambda parts=prepared: list(infer(stage, parts)))
        timed("of it, video level", lambda parts=results: video_levels(stage, parts))
        coded = timed("code", lambda parts=results: list(code(stage, codec, parts)))
        cache = scratch / f"parts{turn}"
        timed(
            "track and write", lambda parts=coded, out=cache: write_all(config, codec, parts, out)
        )
        frames = sum(len(part.output.frame_queries) for _, part in results if is_frames(part))
        clips = sum(1 + len(part.bank) for _, part in results if isinstance(part, Clips))
        del prepared, results, coded
        summary = extract(
            config, data_root=root, split=split, weights=arguments.weights,
            out=scratch / f"whole{turn}", device=device, **how,
        )  # fmt: skip
        if summary.failures:
            raise InputError(f"videos failed: {summary.failures}; measure with data that is whole")
        seconds.setdefault("stage one", []).append(summary.seconds)
    used = torch.cuda.get_device_name() if stage.vita.device.type == "cuda" else "cpu"
    return {
        "config": arguments.config, "codec": codec.describe(), "device": used, **how,
        "threads": arguments.threads, "cores": os.cpu_count(), "machine": platform.machine(),
        "torch": torch.__version__, "transformers": transformers.__version__,
        "frames": frames, "clips": clips, "seconds": seconds,
        "ratios": [b / s for b, s in zip(seconds["bare model"], seconds["stage one"], strict=True)],
    }  # fmt: skip


def is_frames(part: Any) -> bool:
    """Whether a part is of the frame level."""
    return isinstance(part, Frames)


def video_levels(stage: Stage, results: Parts) -> None:
    """The video level of every video once more."""
    for video_id, parts in groupby(results, key=itemgetter(0)):
        queries = [part.output.frame_queries for _, part in parts if is_frames(part)]
        video_level(stage, video_id, torch.cat(queries))


def write_all(config: ExtractConfig, codec: Codec, parts: Parts, out: Path) -> None:
    """Tracks and a cache of what was coded."""

    def open_cache() -> CacheWriter:
        return CacheWriter(
            out, fingerprint={"codec": codec.describe()}, dataset=config.dataset, split="",
            codec=codec,
        )  # fmt: skip

    for _ in write(open_cache, parts):
        pass


def table(figures: dict[str, Any]) -> str:
    """The printed table: medians, and what share of the bare model's time each part takes."""
    names = ("config", "device", "threads", "cores", "machine", "torch", "transformers")
    lines = [", ".join(f"{name} {figures[name]}" for name in (*names, "chunk_frames", "autocast"))]
    lines.append(f"{figures['frames']} frames, {figures['clips']} clips, whole videos included")
    median = {name: statistics.median(times) for name, times in figures["seconds"].items()}
    lines.append(f"{'':<22}{'s':>8}{'frames/s':>10}{'of the model':>14}")
    for name in ("bare model", "stage one", *(n for n in median if n not in MAIN)):
        share = median[name] / median["bare model"]
        rate = figures["frames"] / median[name]
        lines.append(f"{name:<22}{median[name]:>8.2f}{rate:>10.1f}{share:>14.2f}")
    clip = 1000 * median["of it, video level"] / figures["clips"]
    lines.append(f"a clip costs {clip:.1f} ms")
    ratios = figures["ratios"]
    lines.append(
        f"stage one runs at {100 * min(ratios):.0f}% to {100 * max(ratios):.0f}% of the bare "
        f"model's frames/s ({len(ratios)} turns)"
    )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(cli.run(main))
