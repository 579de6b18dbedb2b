"""How fast stage one is: the bare model, the whole of stage one, and each of its parts alone.

    python -m scripts.bench_extract [CONFIG] [--data-root D --split S] [--weights W]
                                    [--threads N] [--chunk-frames N] [--device X] [--json FILE]

Without --data-root it draws videos of noise (--videos, --frames, --size). The bare model is the
segmenter on prepared frames, its clips included; stage one is `python -m extract` from images to
sealed shards, models loaded. They take turns on the same videos, --repeats times, and each turn of
stage one lies between two of the bare model, with whose mean it is compared. The table gives
medians. The parts run alone, one after the other, on one thread where stage one gives them one;
what they are made of is kept in memory, so measure with a few hundred frames.
"""

import argparse
import dataclasses
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import transformers

from cache_schema.codecs import LOWRANK, Codec, get_codec
from cache_schema.host import cli, files
from cache_schema.host.cli import InputError
from cache_schema.host.cores import model_threads
from cache_schema.host.launch import SINGLE
from cache_schema.writer import CacheWriter
from extract.__main__ import find_device
from extract.codecs.calibration import fit_codec
from extract.codecs.video_tracks import video_tracks
from extract.config import ExtractConfig, load_config
from extract.datasets import Dataset, open_dataset
from extract.pipeline.coding import code
from extract.pipeline.inference import VideoRun, infer
from extract.pipeline.parts import Clips, Failed, Frames
from extract.pipeline.reading import encode_expressions, read
from extract.pipeline.run import SHARD_BYTES, extract
from extract.pipeline.writing import write
from extract.stage import RANDOM, Stage, clip_bank, load_stage
from scripts.bench_cache import ORIGIN

Parts = list[tuple[str, Any]]


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
    parser.add_argument("--threads", type=int, default=model_threads())
    parser.add_argument("--chunk-frames", type=int, help="chosen by their size")
    parser.add_argument("--autocast", default="none")
    parser.add_argument("--device", help="cuda or cpu; cuda if there is one")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--cfg-options", nargs="+", default=[], metavar="K=V")
    arguments = parser.parse_args(argv)
    names = ("videos", "frames", "threads", "chunk_frames", "repeats")
    numbers = [*(getattr(arguments, name) for name in names), *arguments.size]
    if min(number for number in numbers if number is not None) < 1:
        raise InputError(
            "--videos, --frames, --size, --threads, --chunk-frames and --repeats need to be at "
            "least 1"
        )
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
        files.write(Path(arguments.json), json.dumps(figures, indent=1) + "\n")
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
    device = find_device(arguments.device, SINGLE)
    how = {"chunk_frames": arguments.chunk_frames, "autocast": arguments.autocast}
    stage = load_stage(config, arguments.weights, device, has_text=dataset.facts.has_text, **how)
    name = config.codec["name"]
    codec = fit_codec(stage, dataset, 0) if name == LOWRANK else get_codec(name)
    clock = Clock(stage, arguments.threads)
    prepared = list(read(stage, dataset, dataset.ids))
    failed = [part.reason for _, part in prepared if isinstance(part, Failed)]
    if failed:
        raise InputError(f"measure with data that is whole: {failed[0]}")
    results = list(infer(stage, prepared))
    for turn in range(arguments.repeats):
        clock.time("bare model", lambda: exhaust(infer(stage, prepared)))
        summary = extract(
            config, data_root=root, split=split, weights=arguments.weights,
            out=scratch / f"whole{turn}", device=device, **how,
        )  # fmt: skip
        if summary.failures:
            raise InputError(f"measure with data that is whole: {summary.failures}")
        clock.seconds.setdefault("stage one", []).append(summary.seconds)
        parts_alone(clock, config, dataset, codec, results, scratch / f"parts{turn}")
    clock.time("bare model", lambda: exhaust(infer(stage, prepared)))
    bare, whole = clock.seconds["bare model"], clock.seconds["stage one"]
    around = [(before + after) / 2 for before, after in zip(bare, bare[1:], strict=False)]
    used = torch.cuda.get_device_name() if stage.segmenter.device.type == "cuda" else "cpu"
    clips = [part for _, part in results if isinstance(part, Clips)]
    return {
        "config": arguments.config, "codec": codec.describe(), "device": used, **how,
        "threads": arguments.threads, "cores": os.cpu_count(), "machine": platform.machine(),
        "python": platform.python_version(), "torch": torch.__version__,
        "transformers": transformers.__version__,
        "videos": len(clips), "frames": summary.frames,
        "clips": sum(len(part.bank) for part in clips), "seconds": clock.seconds,
        "ratios": [model / stage_one for model, stage_one in zip(around, whole, strict=True)],
    }  # fmt: skip


class Clock:
    """Times things by name, the model's on its threads and others on one."""

    def __init__(self, stage: Stage, threads: int) -> None:
        self.stage, self._threads = stage, threads
        self.seconds: dict[str, list[float]] = {}

    def time(self, what: str, run: Callable[[], Any], *, threads: int | None = None) -> Any:
        """Run something, until the device is done with it as well."""
        torch.set_num_threads(threads or self._threads)
        start = time.perf_counter()
        made = run()
        if self.stage.segmenter.device.type == "cuda":
            torch.cuda.synchronize()
        self.seconds.setdefault(what, []).append(time.perf_counter() - start)
        torch.set_num_threads(self._threads)
        return made


def exhaust(items: Iterable[Any]) -> None:
    """Go through items and keep none."""
    for _ in items:
        pass


def parts_alone(
    clock: Clock, config: ExtractConfig, dataset: Dataset, codec: Codec, results: Parts, out: Path
) -> None:
    """Time everything that stage one does beside the frame level of the model."""
    stage = clock.stage
    mute = dataclasses.replace(stage, text=None)
    clock.time("decode, prepare", lambda: exhaust(read(mute, dataset, dataset.ids)), threads=1)
    if stage.text:
        videos = [dataset.video(video_id) for video_id in dataset.ids]
        clock.time("text", lambda: [encode_expressions(stage.text, v) for v in videos], threads=1)
    clock.time("video level, clips", lambda: video_levels(stage, results, clips=True))
    clock.time("video level, no clips", lambda: video_levels(stage, results, clips=False))
    coded = clock.time("code", lambda: list(code(stage, codec, results)))
    clock.time("tracks", lambda: track_all(codec, coded), threads=1)
    clock.time("tracks and write", lambda: write_all(config, codec, coded, out), threads=1)


def by_id(parts: Parts) -> Iterator[tuple[str, list[Any]]]:
    """The parts of each video."""
    for video_id, group in groupby(parts, key=itemgetter(0)):
        yield video_id, [part for _, part in group]


def video_levels(stage: Stage, results: Parts, *, clips: bool) -> None:
    """The video level of every video once more, with its clips or without."""
    for video_id, (head, *parts) in by_id(results):
        bank = clip_bank(video_id, len(head.frame_names), **stage.config.clips)
        run = VideoRun(stage, len(head.frame_names), bank if clips else bank[:0])
        for part in parts:
            if isinstance(part, Frames):
                run.video.add(part.output)
        run.clips()


def track_all(codec: Codec, coded: Parts) -> None:
    """The tracks of every video, from codes in memory."""
    for _, (head, *chunks, clips) in by_id(coded):
        frames = [
            {name: array[k : k + 1] for name, array in chunk.mask_features.items()}
            for chunk in chunks
            for k in range(len(chunk.mask_features["values"]))
        ]
        video_tracks(
            frames.__getitem__, codec, clips.mask_embeds, clips.bank, len(frames), head.geometry,
            head.cells,
        )  # fmt: skip


def write_all(config: ExtractConfig, codec: Codec, parts: Parts, out: Path) -> None:
    """Tracks and a cache of what was coded."""

    def open_cache() -> CacheWriter:
        return CacheWriter(
            out, fingerprint={"codec": codec.describe()}, dataset=config.dataset, split="",
            codec=codec, **ORIGIN, shard_bytes=SHARD_BYTES,
        )  # fmt: skip

    exhaust(write(open_cache, parts))


def table(figures: dict[str, Any]) -> str:
    """The printed table: medians, and what share of the bare model's time each part takes."""
    names = ("config", "device", "threads", "cores", "machine", "python", "torch", "transformers")
    lines = [", ".join(f"{name} {figures[name]}" for name in (*names, "autocast"))]
    lines[0] += f", chunks of {figures['chunk_frames'] or 'as many frames as suit their size'}"
    lines.append("{videos} videos, {frames} frames, {clips} clips".format_map(figures))
    median = {name: statistics.median(times) for name, times in figures["seconds"].items()}
    lines.append(f"{'':<22}{'s':>8}{'frames/s':>10}{'of the model':>14}")
    for name, seconds in median.items():
        share, rate = seconds / median["bare model"], figures["frames"] / seconds
        lines.append(f"{name:<22}{seconds:>8.2f}{rate:>10.1f}{share:>14.3f}")
    if figures["clips"]:
        bank = median["video level, clips"] - median["video level, no clips"]
        lines.append(f"a clip costs {1000 * bank / figures['clips']:.1f} ms")
    ratios = figures["ratios"]
    lines.append(
        f"stage one runs at {100 * min(ratios):.0f}% to {100 * max(ratios):.0f}% of the bare "
        f"model's frames/s ({len(ratios)} turns)"
    )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(cli.run(main))
