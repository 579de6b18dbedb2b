"""Stage one on a GPU: the bare model, the library's, and the whole pipeline.

Frames are drawn noise of 720x1280 in JPEG files, models have random weights. "Bare" is VITA's frame
level on frames that are on the device, "library" the forward pass of transformers' Mask2Former on
the same frames in the same precision, "model" is the bare model with uploads, video level, clips.
The pipeline's rate is taken from the end of its first video to the end of its last.
"""

import argparse
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from cache_schema.codecs import Codec
from extract.codecs.fitting import fit_codec
from extract.config import load_config
from extract.datasets import VideoFolder
from extract.pipeline import beside, coding
from extract.pipeline.inference import infer
from extract.pipeline.parts import Failed, Images
from extract.pipeline.reading import read
from extract.pipeline.run import default_readers, new_cache, outcomes_of
from extract.segmenters.vita.graphs import Graphs
from extract.stage import RANDOM, Stage, allow_tf32, load_stage, precision
from scripts.bench_extract import draw
from scripts.measuring import Figures, attempt, exhaust, peak_mb, seconds_each, traced

#: What MeViS has: videos, and frames of each.
MEVIS = 2006 * 80
#: Seconds for everything, in turns, of which each backbone may use its share.
TURNS = 65.0
#: Precisions by the names of ``--autocast``.
PRECISIONS = ("bfloat16+tf32", "none", "tf32", "float16+tf32")
#: Those in which the whole pipeline runs, the first of them for both backbones.
WHOLE = PRECISIONS[:2]


@dataclass(frozen=True)
class Sizes:
    """What is measured.

    Attributes:
        presets: with the share of the time by whose end each is done.
        drawn: frames that are drawn; every video shows them all.
        videos: of the pipeline's run at most.
        chunk: frames that go through the model together.
        seconds: that a measurement takes.
    """

    presets: dict[str, float]
    drawn: int = 80
    size: tuple[int, int] = (720, 1280)
    videos: int = 16
    chunk: int = 16
    seconds: float = 0.6
    whole_seconds: float = 2.5


FULL = Sizes({"mevis_r50": 0.55, "mevis_swinl": 0.8, "videomt_large_ytvis": 1.0})
TINY = Sizes({"demo": 1.0}, 6, (48, 64), 3, 2, 0.05, 0.1)


@dataclass
class Bench:
    """One backbone with its data; `stage` has the precision that is measured."""

    stage: Stage
    dataset: VideoFolder
    codec: Codec | None
    sizes: Sizes
    folder: Path

    @property
    def device(self) -> torch.device:
        return self.stage.segmenter.device

    @property
    def is_vita(self) -> bool:
        return self.stage.config.segmenter_type == "vita"

    def use(self, autocast: str) -> None:
        """Measure in this precision from now on."""
        segmenter = self.stage.segmenter
        segmenter.autocast, tf32 = precision(autocast)
        if self.is_vita:
            segmenter._graphs = Graphs(segmenter._frames)  # with errors of their own
        allow_tf32(tf32)
        self.stage = replace(self.stage, autocast=autocast)


def measure(settings: argparse.Namespace, device: torch.device, figures: Figures) -> None:
    """Enter rates in frames a second, memory in MB.

    Args:
        settings: ``tiny`` is for tests.
    """
    sizes, start = TINY if settings.tiny else FULL, time.perf_counter()
    figures |= {
        "cores": len(os.sched_getaffinity(0)),
        "readers": default_readers(device),
        "chunk": sizes.chunk,
    }
    with TemporaryDirectory() as name:
        root = draw_videos(Path(name) / "videos", sizes)
        figures["drawn_seconds"] = time.perf_counter() - start
        for preset, share in sizes.presets.items():
            end = start + share * TURNS * (settings.turn or 1.0)
            found = figures[preset] = {}

            def run(preset: str = preset, found: Figures = found, end: float = end) -> float:
                stage, dataset = loaded(preset, device, settings.tiny), VideoFolder(root, None)
                bench = Bench(stage, dataset, fit_codec(stage, dataset, 1), sizes, Path(name))
                _measure(bench, found, end, detailed=preset == next(iter(sizes.presets)))
                return time.perf_counter() - start

            attempt(found, "seconds", run)  # if it fails, the other preset may do


def _measure(bench: Bench, figures: Figures, end: float, *, detailed: bool) -> None:
    """All of one backbone, what matters most first."""
    whole_in = WHOLE if detailed else WHOLE[:1]
    for autocast in PRECISIONS if detailed else WHOLE:
        found = figures[autocast] = {}
        bench.use(autocast)
        attempt(found, "bare", partial(bare, bench, graphs=True), end=end)
        if autocast in whole_in:
            attempt(found, "model", partial(model, bench), end=end)
            rate = found["model"].get("rate", 100.0)
            attempt(found, "whole", partial(whole, bench, rate), end=end)
            _compare(found, "whole", "bare")
            _compare(found, "whole", "model")
        if detailed and autocast in WHOLE:
            attempt(found, "tuned", partial(tuned, bench), end=end)
        if detailed and autocast == WHOLE[0]:
            attempt(found, "busy", partial(busy, bench), end=end)
            attempt(found, "eager", partial(bare, bench, graphs=False), end=end)
        if bench.is_vita:
            found["graphs"] = bench.stage.segmenter._graphs.error or "captured"
            attempt(found, "library", partial(library, bench), end=end)
            _compare(found, "bare", "library")


def _compare(found: Figures, this: str, that: str) -> None:
    """Enter how fast one is as a multiple of another, if there are both."""
    if "rate" in found[this] and "rate" in found[that]:
        found[f"{this} / {that}"] = found[this]["rate"] / found[that]["rate"]


def profile(settings: argparse.Namespace, device: torch.device, figures: Figures) -> None:
    """Enter the most costly kernels of a chunk of the frame level, and the gaps between kernels.

    Args, and sizes: see `measure`.
    """
    sizes = TINY if settings.tiny else FULL
    with TemporaryDirectory() as name:
        root = draw_videos(Path(name) / "videos", replace(sizes, drawn=sizes.chunk, videos=1))

        def run(preset: str, autocast: str) -> Figures:
            stage = loaded(preset, device, settings.tiny)
            bench = Bench(stage, VideoFolder(root, None), None, sizes, Path(name))
            bench.use(autocast)
            images = images_of(bench)
            for _ in range(2):  # what is made once has been made
                bench.stage.segmenter.frames(images)
            return traced(lambda: bench.stage.segmenter.frames(images), device)

        for preset in list(sizes.presets)[:2]:
            for autocast in WHOLE:
                attempt(figures, f"{preset}, {autocast}", partial(run, preset, autocast))


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


def images_of(bench: Bench) -> Tensor:
    """A chunk of the first video on the device, (t, 3, Hp, Wp)."""
    stage = replace(bench.stage, text=None)
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


def bare(bench: Bench, *, graphs: bool) -> dict[str, float]:
    """The frame level."""
    vita, images = bench.stage.segmenter, images_of(bench)
    vita.graphs = graphs
    try:
        return rate_of(bench, lambda: vita.frames(images), len(images))
    finally:
        vita.graphs = True


def tuned(bench: Bench) -> dict[str, float]:
    """The frame level with convolutions that the library chooses by trying them.

    It may choose others in another run, so this is no option: numbers would differ by rounding.
    """
    bench.use(bench.stage.autocast)  # graphs are captured anew
    flags, tf32 = torch.backends.cudnn.flags, torch.backends.cudnn.allow_tf32
    try:
        with flags(enabled=True, benchmark=True, deterministic=False, allow_tf32=tf32):
            return bare(bench, graphs=True)
    finally:
        bench.use(bench.stage.autocast)


def library(bench: Bench) -> dict[str, float]:
    """The library's own forward pass, with the same weights."""
    vita, images = bench.stage.segmenter, images_of(bench)

    def run() -> None:
        with vita._narrow():
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
        stage, data, codec = bench.stage, bench.dataset, bench.codec
        open_cache = new_cache(stage, data.facts, codec, Path(out) / "cache", {})
        run = outcomes_of(stage, data, codec, open_cache, ids, 1, readers)
        with closing(run) as outcomes:
            next(outcomes)
            for _, outcome in outcomes:
                if isinstance(outcome, Failed):
                    raise RuntimeError(outcome.reason)
                yield


def whole(bench: Bench, rate: float) -> dict[str, float]:
    """How fast the pipeline is.

    Args:
        rate: frames a second of the model, from which follows how many videos there is time for.
    """
    sizes, start = bench.sizes, time.perf_counter()
    videos = min(max(int(sizes.whole_seconds * rate / sizes.drawn), 3), sizes.videos)
    with waits() as waited, closing(pipeline(bench, videos)) as done:
        ends = [time.perf_counter() for _ in done]
        seconds = time.perf_counter() - start
    rate = (videos - 1) * sizes.drawn / max(ends[-1] - ends[0], 1e-9)
    return {
        "rate": rate,
        "rate with ends": videos * sizes.drawn / seconds,
        "videos": videos,
        "hours for MeViS": MEVIS / rate / 3600,
        "share of the time": {name: took / seconds for name, took in waited.items()},
    }


@contextmanager
def waits() -> Iterator[dict[str, float]]:
    """Seconds that the pipeline's threads spend waiting for what, by name, and the coder's work."""
    found: dict[str, float] = defaultdict(float)

    def timed(wait: Callable[..., Any], what: Callable[[Any], str]) -> Callable[..., Any]:
        def call(self: Any, *arguments: Any) -> Any:
            start = time.perf_counter()
            try:
                return wait(self, *arguments)
            finally:
                found[what(self)] += time.perf_counter() - start

        return call

    watched: list[tuple[Any, str, Callable[[Any], str]]] = [
        (beside._Lane, "__next__", lambda own: f"for the {own._thread.name}"),
        (beside._Lane, "_put", lambda own: f"the {own._thread.name} for room"),
        (beside.Child, "put", lambda own: f"to hand over to {own._name}"),
        # Of the coder's own time.
        (torch.cuda.Event, "synchronize", lambda own: "for copies to the host"),
        (coding, "_code_frames", lambda stage: "to ask for codes of frames"),
        (coding, "_code_clips", lambda stage: "for what becomes of clips"),
        (coding._Compared, "iou", lambda own: "for what the codec costs"),
    ]
    with ExitStack() as stack:
        for place, name, what in watched:
            wait = timed(getattr(place, name), what)
            stack.enter_context(mock.patch.object(place, name, wait))
        yield found


def busy(bench: Bench) -> Figures:
    """Of two videos in the middle of the pipeline's run; `busy_share` is that of the whole."""
    with closing(pipeline(bench, 4)) as done:
        next(done)
        return traced(lambda: exhaust(islice(done, 2)), bench.device)
