"""What is measured of stage one: the model, the whole, and each part alone; see `stage_one`."""

import os
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
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
from extract.pipeline.coding import code
from extract.pipeline.inference import infer
from extract.pipeline.parts import CodedClips, CodedFrames, Failed, Images
from extract.pipeline.readers import reading
from extract.pipeline.reading import read
from extract.pipeline.run import SHARD_BYTES, default_readers, outcomes_of
from extract.pipeline.writing import write
from extract.segmenters.vita.graphs import Graphs
from extract.stage import RANDOM, Stage, allow_tf32, load_stage, precision
from scripts.bench_cache import ORIGIN
from scripts.bench_extract import draw, exhaust
from scripts.bench_gpu.kernels import synchronise, traced

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
    end: float  # of its time, by time.perf_counter
    figures: dict[str, Any]

    def try_to(self, what: str, run: Callable[[], Any], where: dict[str, Any] | None = None) -> Any:
        """Measure something; its error, or that there was no time for it, takes its place."""
        where = self.figures if where is None else where
        if time.perf_counter() > self.end:
            where[what] = {"error": "no time was left"}
            return None
        try:
            where[what] = run()
        except Exception as error:  # whatever a GPU may say
            where[what] = {"error": f"{type(error).__name__}: {error}"[:500]}
            return None
        return where[what]

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
    start = time.perf_counter()
    codec = fit_codec(stage, dataset, 1)
    bench = Bench(stage, dataset, codec, TINY if tiny else FULL, folder, 0.0, {})
    bench.figures["fit_seconds"] = time.perf_counter() - start
    return bench


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
    cuda = bench.stage.segmenter.device.type == "cuda"
    for _ in range(2):
        run()
    synchronise(bench.stage.segmenter.device)
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    start, count = time.perf_counter(), 0
    while count < 2 or time.perf_counter() - start < bench.sizes.seconds:
        run()
        count += 1
        synchronise(bench.stage.segmenter.device)
    seconds = time.perf_counter() - start
    memory = torch.cuda.max_memory_allocated() if cuda else 0
    return {"rate": frames * count / seconds, "peak_bytes": memory}


def bare(bench: Bench, chunk: int, *, graphs: bool) -> dict[str, float]:
    """The frame level of VITA."""
    vita, images = bench.stage.segmenter, images_of(bench, chunk)
    vita.graphs = graphs
    try:
        return rate_of(bench, lambda: vita.frames(images)[0], len(images))
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


def opener(bench: Bench, out: Path) -> Callable[[], CacheWriter]:
    """What opens a new cache."""

    def open_cache() -> CacheWriter:
        return CacheWriter(
            out, fingerprint={"codec": bench.codec.describe()}, dataset="folder", split="",
            codec=bench.codec, **ORIGIN, shard_bytes=SHARD_BYTES,
        )  # fmt: skip

    return open_cache


def whole(bench: Bench, autocast: str) -> dict[str, float]:
    """The pipeline from JPEG files to sealed shards, and the busy share that the driver saw."""
    sizes, found = bench.sizes, bench.figures["precisions"][autocast].get("model", {})
    per_video = sizes.drawn / found.get("rate", 100.0)
    videos = min(max(int(sizes.whole_seconds / per_video), 3), sizes.videos)
    ids, ends = bench.dataset.ids[:videos], []
    with TemporaryDirectory(dir=bench.folder) as out, Utilization(bench) as utilization:
        start = time.perf_counter()
        readers = default_readers(bench.stage.segmenter.device)
        cache = opener(bench, Path(out) / "cache")
        run = outcomes_of(bench.stage, bench.dataset, bench.codec, cache, ids, 1, readers)
        with closing(run) as outcomes:
            next(outcomes)
            for _, outcome in outcomes:
                if isinstance(outcome, Failed):
                    raise RuntimeError(outcome.reason)
                ends.append(time.perf_counter())
        seconds = time.perf_counter() - start
    rate = (videos - 1) * sizes.drawn / max(ends[-1] - ends[0], 1e-9)
    return {
        "rate": rate,
        "rate_with_ends": videos * sizes.drawn / seconds,
        "videos": videos,
        "mevis_hours": MEVIS / rate / 3600,
        "busy_by_driver": utilization.mean(ends[0], ends[-1]),
    }


class Utilization:
    """What ``nvidia-smi`` says of the GPU every tenth of a second: a context manager."""

    def __init__(self, bench: Bench) -> None:
        self._wanted = bench.stage.segmenter.device.type == "cuda"
        self._file, self._started = bench.folder / "utilization", 0.0
        self._process: subprocess.Popen | None = None

    def __enter__(self) -> "Utilization":
        if self._wanted:
            query = ["--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-lms", "100"]
            try:
                with self._file.open("w") as out:
                    self._process = subprocess.Popen(["nvidia-smi", *query], stdout=out)
            except OSError:  # then nobody says
                self._wanted = False
        self._started = time.perf_counter()
        return self

    def __exit__(self, *error: object) -> None:
        if self._process:
            self._process.terminate()
            self._process.wait()

    def mean(self, start: float, end: float) -> float | None:
        """The mean between two moments, from 0 to 1; None if nobody said."""
        if not self._wanted:
            return None
        said = [float(line) for line in self._file.read_text().split() if line.isdigit()]
        begin, stop = (max(int((at - self._started) * 10), 0) for at in (start, end))
        inside = said[begin + 1 : max(stop, begin + 2)]  # as far as the clock of it can be trusted
        return statistics.mean(inside) / 100 if inside else None


def alone(bench: Bench) -> dict[str, float]:
    """Frames a second of every part of the pipeline alone, on two videos."""
    stage, ids = bench.stage, bench.dataset.ids[:2]
    frames = len(ids) * bench.sizes.drawn
    found: dict[str, float] = {}

    def timed(name: str, run: Callable[[], Any]) -> Any:
        synchronise(bench.stage.segmenter.device)
        start = time.perf_counter()
        made = run()
        synchronise(bench.stage.segmenter.device)
        found[name] = frames / (time.perf_counter() - start)
        return made

    def read_by_all() -> None:
        """From the first frame on: processes start once for thousands of videos."""
        every = bench.dataset.ids[:6]
        count = 0
        readers = default_readers(stage.segmenter.device)
        with reading(stage, bench.dataset, every, readers) as (stream, _):
            start = None
            for _, part in stream:
                if isinstance(part, Images):
                    start = start or time.perf_counter()
                    count += len(part.pixels)
        found["read, all readers"] = count / (time.perf_counter() - start)

    read_by_all()
    parts = timed("read, one reader", lambda: list(read(stage, bench.dataset, ids)))
    results = timed("model", lambda: list(infer(stage, parts)))
    timed("code with tracks", lambda: exhaust(code(stage, bench.codec, results)))
    coded = timed("code with tracks, again", lambda: list(code(stage, bench.codec, results)))
    on_host = [part for _, part in coded if isinstance(part, CodedFrames)]
    found["coded_bytes_a_frame"] = sum(part.nbytes for part in on_host) / frames
    with TemporaryDirectory(dir=bench.folder) as out:
        cache = opener(bench, Path(out) / "cache")
        timed("write", lambda: exhaust(write(cache, coded)))
    without = [
        (video_id, replace(part, tracks=None) if isinstance(part, CodedClips) else part)
        for video_id, part in coded
    ]
    with TemporaryDirectory(dir=bench.folder) as out:
        cache = opener(bench, Path(out) / "cache")
        timed("write, tracks by the processor", lambda: exhaust(write(cache, without)))
    return found


def busy(bench: Bench) -> dict[str, Any]:
    """Share of time with a kernel at work, in the middle of a run of the whole pipeline."""
    ids = bench.dataset.ids[:4]
    readers = default_readers(bench.stage.segmenter.device)
    with TemporaryDirectory(dir=bench.folder) as out:
        cache = opener(bench, Path(out) / "cache")
        run = outcomes_of(bench.stage, bench.dataset, bench.codec, cache, ids, 1, readers)
        with closing(run) as outcomes:
            next(outcomes), next(outcomes)  # the first video is done
            rest = lambda: [next(outcomes, None) for _ in ids[2:]]  # noqa: E731
            return traced(rest, bench.stage.segmenter.device)


def kernels(bench: Bench) -> dict[str, Any]:
    """Of one chunk, once what is made once has been made."""
    vita, images = bench.stage.segmenter, images_of(bench, bench.sizes.chunk)
    for _ in range(2):
        vita.frames(images)[0]
    return traced(lambda: vita.frames(images)[0], images.device)
