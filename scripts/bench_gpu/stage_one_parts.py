"""What is measured of stage one: the model, the library's, the whole; see `stage_one`."""

import os
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from cache_schema.codecs import Codec
from cache_schema.writer import CacheWriter
from extract.codecs.calibration import fit_codec
from extract.config import load_config
from extract.datasets import VideoFolder
from extract.pipeline.inference import infer
from extract.pipeline.parts import Failed, Images
from extract.pipeline.reading import read
from extract.pipeline.run import SHARD_BYTES, default_readers, outcomes_of
from extract.segmenters.vita.graphs import Graphs
from extract.stage import RANDOM, Stage, allow_tf32, load_stage, precision
from scripts.bench_extract import draw
from scripts.bench_gpu.kernels import traced
from scripts.measuring import Figures, exhaust, peak_mb, seconds_each

#: What MeViS has: videos, and frames of each.
MEVIS = 2006 * 80


@dataclass(frozen=True)
class Sizes:
    """What is measured.

    Attributes:
        presets: with the share of the time by whose end each is done.
        drawn: frames that are drawn; every video shows them all.
        videos: of the pipeline's run at most.
        chunk: frames that go through the model together.
        chunks: other sizes that are tried.
        seconds: that a measurement takes.
    """

    presets: dict[str, float]
    drawn: int = 80
    size: tuple[int, int] = (720, 1280)
    videos: int = 16
    chunk: int = 16
    chunks: tuple[int, ...] = (8, 32)
    seconds: float = 0.6
    whole_seconds: float = 2.5


FULL = Sizes({"mevis_r50": 0.62, "mevis_swinl": 1.0})
TINY = Sizes({"demo": 1.0}, 6, (48, 64), 3, 2, (1,), 0.05, 0.1)


@dataclass
class Bench:
    """One backbone with its data; `stage` has the precision that is measured."""

    stage: Stage
    dataset: VideoFolder
    codec: Codec
    sizes: Sizes
    folder: Path

    @property
    def device(self) -> torch.device:
        return self.stage.segmenter.device

    def use(self, autocast: str) -> None:
        """Measure in this precision from now on."""
        segmenter = self.stage.segmenter
        segmenter.autocast, tf32 = precision(autocast)
        segmenter._graphs = Graphs(segmenter._frames)  # with errors of their own
        allow_tf32(tf32)
        self.stage = replace(self.stage, autocast=autocast)


def draw_videos(root: Path, sizes: Sizes) -> Path:
    """Folders of the same JPEG files, each drawn once."""
    draw(root, 1, sizes.drawn, *sizes.size)
    frames = sorted((root / "video0").iterdir())
    for number in range(1, sizes.videos):
        (root / f"video{number}").mkdir()
        for k, frame in enumerate(frames):
            os.link(frames[(k + number) % len(frames)], root / f"video{number}" / frame.name)
    return root


@lru_cache(maxsize=2)
def loaded(preset: str, device: torch.device, tiny: bool) -> Stage:
    options = {"dataset": "folder", "codec": {"name": "lowrank-int8", "frames": 4 if tiny else 32}}
    options["codec.rank"] = 8 if tiny else 64
    config = load_config(preset, options)
    chunk = (TINY if tiny else FULL).chunk
    return load_stage(config, RANDOM, str(device), has_text=False, chunk_frames=chunk)


def prepared(preset: str, device: torch.device, tiny: bool, root: Path, folder: Path) -> Bench:
    """A backbone and its codec."""
    stage, dataset = loaded(preset, device, tiny), VideoFolder(root, None)
    return Bench(stage, dataset, fit_codec(stage, dataset, 1), TINY if tiny else FULL, folder)


@contextmanager
def changed(stage: Stage, owner: Any, name: str, value: Any) -> Iterator[None]:
    """Another setting, with graphs of its own."""
    before, graphs = getattr(owner, name), stage.segmenter._graphs
    setattr(owner, name, value)
    stage.segmenter._graphs = Graphs(stage.segmenter._frames)
    try:
        yield
    finally:
        setattr(owner, name, before)
        stage.segmenter._graphs = graphs


def images_of(bench: Bench, count: int) -> Tensor:
    """(t, 3, Hp, Wp) on the device, of the first video."""
    stage = replace(bench.stage, text=None, chunk_frames=count)
    parts = read(stage, bench.dataset, bench.dataset.ids[:1])
    return stage.prepare(next(part for _, part in parts if isinstance(part, Images)))


def rate_of(bench: Bench, run: Callable[[], Any], frames: int) -> dict[str, float]:
    """Frames a second of a function that does some of them, and peak memory."""
    exhaust(run() for _ in range(2))
    took: list[float] = []
    peak = peak_mb(bench.device, lambda: took.append(seconds_each(
        run, bench.device, turn=bench.sizes.seconds, warm_up=1, wait=True
    )))  # fmt: skip
    return {"rate": frames / took[0], "peak MB": peak}


def bare(bench: Bench, chunk: int, *, graphs: bool) -> dict[str, float]:
    """The frame level of VITA."""
    vita, images = bench.stage.segmenter, images_of(bench, chunk)
    vita.graphs = graphs
    try:
        return rate_of(bench, lambda: vita.frames(images), len(images))
    finally:
        vita.graphs = True


def library(bench: Bench) -> dict[str, float]:
    """The library's own forward pass, with the same weights."""
    vita, images = bench.stage.segmenter, images_of(bench, bench.sizes.chunk)
    narrow = vita.autocast

    def run() -> None:
        with torch.autocast(images.device.type, dtype=narrow, enabled=narrow is not None):
            vita.frame_model(pixel_values=images)

    with torch.inference_mode():
        return rate_of(bench, run, len(images))


def model(bench: Bench) -> dict[str, float]:
    """What `infer` does of one video in memory, with its clips."""
    parts = list(read(bench.stage, bench.dataset, bench.dataset.ids[:1]))
    return rate_of(bench, lambda: exhaust(infer(bench.stage, parts)), bench.sizes.drawn)


def pipeline(bench: Bench, videos: int) -> Iterator[None]:
    """Stage one from JPEG files to sealed shards: after each of so many videos, as it is done."""
    ids, readers = bench.dataset.ids[:videos], default_readers(bench.device)
    with TemporaryDirectory(dir=bench.folder) as out:

        def open_cache() -> CacheWriter:
            return CacheWriter(
                Path(out) / "cache", fingerprint={"codec": bench.codec.describe()},
                dataset="folder", split="", codec=bench.codec, facts=bench.dataset.facts,
                segmenter=bench.stage.segmenter.facts(bench.stage.config.segmenter_type),
                shard_bytes=SHARD_BYTES,
            )  # fmt: skip

        run = outcomes_of(bench.stage, bench.dataset, bench.codec, open_cache, ids, 1, readers)
        with closing(run) as outcomes:
            next(outcomes)
            for _, outcome in outcomes:
                if isinstance(outcome, Failed):
                    raise RuntimeError(outcome.reason)
                yield


def whole(bench: Bench, rate: float) -> dict[str, float | None]:
    """How fast the pipeline is, and the busy share that the driver saw.

    Args:
        bench: what is measured.
        rate: frames a second of the model, from which follows how many videos there is time for.
    """
    sizes, start = bench.sizes, time.perf_counter()
    videos = min(max(int(sizes.whole_seconds * rate / sizes.drawn), 3), sizes.videos)
    with closing(pipeline(bench, videos)) as done, utilization(bench) as share:
        ends = [time.perf_counter() for _ in done]
        seconds = time.perf_counter() - start
    rate = (videos - 1) * sizes.drawn / max(ends[-1] - ends[0], 1e-9)
    return {
        "rate": rate,
        "rate with ends": videos * sizes.drawn / seconds,
        "videos": videos,
        "hours for MeViS": MEVIS / rate / 3600,
        "busy by driver": share(ends[0], ends[-1]),
    }


def busy(bench: Bench) -> Figures:
    """Of two videos in the middle of the pipeline's run; `busy_share` is that of the whole."""
    with closing(pipeline(bench, 4)) as done:
        next(done)
        return traced(lambda: exhaust(islice(done, 2)), bench.device)


@contextmanager
def utilization(bench: Bench) -> Iterator[Callable[[float, float], float | None]]:
    """The mean share, 0 to 1, that the GPU was at work between two moments; None if nobody says.

    ``nvidia-smi`` says so every tenth of a second.
    """
    log, started, process = bench.folder / "utilization", time.perf_counter(), None
    query = ["--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-lms", "100"]
    with log.open("w") as out, suppress(OSError):
        if bench.device.type == "cuda":
            process = subprocess.Popen(["nvidia-smi", *query], stdout=out)

    def mean(start: float, end: float) -> float | None:
        said = [float(line) for line in log.read_text().split() if line.isdigit()]
        begin, stop = (max(int((at - started) * 10), 0) for at in (start, end))
        inside = said[begin + 1 : max(stop, begin + 2)]  # as far as its clock can be trusted
        return statistics.mean(inside) / 100 if inside else None

    try:
        yield mean
    finally:
        if process:
            process.terminate()
            process.wait()


def kernels(bench: Bench) -> Figures:
    """Of one chunk, once what is made once has been made."""
    vita, images = bench.stage.segmenter, images_of(bench, bench.sizes.chunk)
    for _ in range(2):
        vita.frames(images)
    return traced(lambda: vita.frames(images), images.device)
