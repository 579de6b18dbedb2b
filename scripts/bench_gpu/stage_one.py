"""Stage one on a GPU: the bare model, the library's, and the whole pipeline.

Frames are drawn noise of 720x1280 in JPEG files, models have random weights. "Bare" is VITA's frame
level on frames that are on the device, "library" the forward pass of transformers' Mask2Former on
the same frames in the same precision, "model" is the bare model with uploads, video level, clips.
The pipeline's rate is taken from the end of its first video to the end of its last.
"""

import argparse
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from extract.datasets import VideoFolder
from extract.pipeline.run import default_readers
from extract.segmenters.vita import forms
from scripts.bench_gpu.stage_one_parts import (
    FULL,
    TINY,
    Bench,
    bare,
    busy,
    changed,
    draw_videos,
    kernels,
    library,
    loaded,
    model,
    prepared,
    whole,
)
from scripts.measuring import Figures, attempt

#: Seconds for everything, in turns, of which each backbone may use its share.
TURNS = 65.0
#: Precisions by the names of ``--autocast``.
PRECISIONS = ("none", "tf32", "bfloat16+tf32", "float16+tf32")
#: Those in which the whole pipeline runs, the first of them for both backbones.
WHOLE = ("bfloat16+tf32", "none")


def measure(settings: argparse.Namespace, device: torch.device, figures: Figures) -> None:
    """Enter rates in frames a second, memory in MB.

    Args:
        settings: ``tiny`` is for tests.
        device: where the models run.
        figures: filled as they come.
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
                bench = prepared(preset, device, settings.tiny, root, Path(name))
                _measure(bench, found, end, detailed=preset == next(iter(sizes.presets)))
                return time.perf_counter() - start

            attempt(found, "seconds", run)  # if it fails, the other preset may do


def _measure(bench: Bench, figures: Figures, end: float, *, detailed: bool) -> None:
    """All of one backbone, what matters most first."""
    bare_model = partial(bare, bench, bench.sizes.chunk, graphs=True)
    for autocast in PRECISIONS if detailed else ("none", "bfloat16+tf32"):
        found = figures[autocast] = {}
        bench.use(autocast)
        attempt(found, "bare", bare_model, end=end)
        found["graphs"] = bench.stage.segmenter._graphs.error or "captured"
        attempt(found, "library", partial(library, bench), end=end)
        _compare(found, "bare", "library")
    for autocast in WHOLE if detailed else WHOLE[:1]:
        found = figures[autocast]
        bench.use(autocast)
        attempt(found, "model", partial(model, bench), end=end)
        rate = found["model"].get("rate", 100.0)
        attempt(found, "whole", partial(whole, bench, rate), end=end)
        _compare(found, "whole", "bare")
        _compare(found, "whole", "model")
    bench.use(WHOLE[0])
    if detailed:
        attempt(figures[WHOLE[0]], "busy", partial(busy, bench), end=end)
        eager = partial(bare, bench, bench.sizes.chunk, graphs=False)
        attempt(figures[WHOLE[0]], "eager", eager, end=end)
    variants = figures["variants"] = {}
    for autocast, name, run in _variants(bench, detailed):
        bench.use(autocast)
        attempt(variants, f"{name}, {autocast}", run, end=end)


def _compare(found: Figures, this: str, that: str) -> None:
    """Enter how fast one is as a multiple of another, if there are both."""
    if "rate" in found[this] and "rate" in found[that]:
        found[f"{this} / {that}"] = found[this]["rate"] / found[that]["rate"]


def _variants(
    bench: Bench, detailed: bool
) -> Iterator[tuple[str, str, Callable[[], dict[str, float]]]]:
    """Choices that only a measurement decides: precision, name, the bare model with another one."""

    def form(
        owner: Any, name: str, value: Any, chunk: int = bench.sizes.chunk
    ) -> Callable[[], dict[str, float]]:
        def run() -> dict[str, float]:
            with changed(bench.stage, owner, name, value):
                return bare(bench, chunk, graphs=True)

        return run

    if not detailed:
        yield WHOLE[0], "the library's Swin", form(forms, "SWIN", False)
        return
    yield WHOLE[0], "deformable attention without a kernel", form(forms, "KERNEL", False)
    yield WHOLE[0], "torch's group norm", form(forms, "GROUP_NORM", False)
    for size in bench.sizes.chunks:
        yield WHOLE[0], f"chunks of {size}", form(bench.stage, "chunk_frames", size, size)
    yield WHOLE[0], "cudnn.benchmark", form(torch.backends.cudnn, "benchmark", True)
    yield "none", "channels last", form(forms, "CHANNELS_LAST", True)


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
            return kernels(bench)

        for preset in sizes.presets:
            for autocast in ("none", "bfloat16+tf32"):
                attempt(figures, f"{preset}, {autocast}", partial(run, preset, autocast))
