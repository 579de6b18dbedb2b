"""Stage one on a GPU: the bare model, the library's, the whole pipeline, and each part of it alone.

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
from scripts.bench_gpu.kernels import kernel_lines
from scripts.bench_gpu.stage_one_parts import (
    FULL,
    TINY,
    Bench,
    alone,
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

#: Seconds for everything, in turns, of which each backbone may use its share.
TURNS = 65.0
#: Precisions by the names of ``--autocast``.
PRECISIONS = ("none", "tf32", "bfloat16+tf32", "float16+tf32")
#: Those in which the whole pipeline runs, the first of them for both backbones.
WHOLE = ("bfloat16+tf32", "none")


def measure(settings: argparse.Namespace, device: torch.device, figures: dict[str, Any]) -> None:
    """Enter everything that `lines` says; rates in frames a second, memory in bytes.

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
        "presets": {},
    }
    with TemporaryDirectory() as name:
        root = draw_videos(Path(name) / "videos", sizes)
        figures["drawn_seconds"] = time.perf_counter() - start
        for preset, share in sizes.presets.items():
            found = figures["presets"][preset] = {}
            try:
                bench = prepared(preset, device, settings.tiny, root, Path(name))
                bench.figures, bench.end = found, start + share * TURNS * (settings.turn or 1.0)
                _measure(bench, detailed=preset == next(iter(sizes.presets)))
            except Exception as error:  # the other preset may do
                found["error"] = f"{type(error).__name__}: {error}"[:500]
            found["seconds"] = time.perf_counter() - start


def _measure(bench: Bench, *, detailed: bool) -> None:
    """All of one backbone, what matters most first."""
    rates = bench.figures["precisions"] = {}
    for autocast in PRECISIONS if detailed else ("none", "bfloat16+tf32"):
        found = rates[autocast] = {}
        bench.use(autocast)
        bench.try_to("bare", lambda: bare(bench, bench.sizes.chunk, graphs=True), found)
        found["graphs"] = bench.stage.segmenter._graphs.error or "captured"
        bench.try_to("library", lambda: library(bench), found)
    for autocast in WHOLE if detailed else WHOLE[:1]:
        bench.use(autocast)
        bench.try_to("model", lambda: model(bench), rates[autocast])
        bench.try_to("whole", lambda name=autocast: whole(bench, name), rates[autocast])
    bench.use(WHOLE[0])
    if detailed:
        bench.try_to("busy", lambda: busy(bench))
        bench.try_to("alone", lambda: alone(bench))
        bench.try_to("eager", lambda: bare(bench, bench.sizes.chunk, graphs=False), rates[WHOLE[0]])
    variants = bench.figures["variants"] = {}
    for autocast, name, run in _variants(bench, detailed):
        bench.use(autocast)
        bench.try_to(f"{name}, {autocast}", run, variants)


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


def profile(settings: argparse.Namespace, device: torch.device, figures: dict[str, Any]) -> None:
    """Enter the most costly kernels of a chunk of the frame level, and the gaps between kernels.

    Args, and sizes: see `measure`.
    """
    sizes = TINY if settings.tiny else FULL
    with TemporaryDirectory() as name:
        root = draw_videos(Path(name) / "videos", replace(sizes, drawn=sizes.chunk, videos=1))
        for preset in sizes.presets:
            found = figures[preset] = {}
            try:
                stage, dataset = loaded(preset, device, settings.tiny), VideoFolder(root, None)
                bench = Bench(stage, dataset, None, sizes, Path(name), float("inf"), found)
                for autocast in ("none", "bfloat16+tf32"):
                    bench.use(autocast)
                    bench.try_to(autocast, partial(kernels, bench))
            except Exception as error:  # the other preset may do
                found["error"] = f"{type(error).__name__}: {error}"[:500]


def lines(figures: dict[str, Any]) -> list[str]:
    """`measure`'s figures as text."""
    text = [
        f"stage one: {figures['readers']} readers on {figures['cores']} cores, "
        f"chunks of {figures['chunk']} frames; frames/s"
    ]
    columns = ("bare", "eager", "library", "model", "whole")
    for preset, found in figures["presets"].items():
        text.append(f"{preset:<16}" + "".join(f"{name:>10}" for name in columns) + "   notes")
        for autocast, rates in found.get("precisions", {}).items():
            row = f"  {autocast:<14}" + "".join(f"{_rate(rates.get(n)):>10}" for n in columns)
            text.append(f"{row}   {_notes(rates)}")
        for name, rate in (found.get("alone") or {}).items():
            text.append(f"  {name:<40}{rate if isinstance(rate, str) else f'{rate:.0f}':>12}")
        for name, rate in (found.get("variants") or {}).items():
            text.append(f"  {name:<40}{_rate(rate):>12}")
        if share := (found.get("busy") or {}).get("busy_share"):
            text.append(f"  a kernel is at work {100 * share:.0f}% of the time (bfloat16+tf32)")
        for name, error in _errors(found):
            text.append(f"  {name}: {error}")
        text.append(f"  done after {found['seconds']:.0f} s")
    return text


def profile_lines(figures: dict[str, Any]) -> list[str]:
    """`profile`'s figures as text."""
    text = []
    for preset, found in figures.items():
        for how, chunk in found.items():
            if not isinstance(chunk, dict) or "top" not in chunk:
                text.append(f"{preset}, {how}: {chunk}")
                continue
            text += kernel_lines(f"{preset}, {how}", chunk)
    return text


def _rate(found: Any) -> str:
    return f"{found['rate']:.1f}" if isinstance(found, dict) and "rate" in found else "-"


def _notes(rates: dict[str, Any]) -> str:
    notes = []
    known = {name: each["rate"] for name, each in rates.items()
             if isinstance(each, dict) and "rate" in each}  # fmt: skip
    if {"bare", "library"} <= known.keys():
        notes.append(f"{known['bare'] / known['library']:.2f} x library")
    if "whole" in known:
        compared = [f"{100 * known['whole'] / known[name]:.0f}% of {name}"
                    for name in ("bare", "model") if name in known]  # fmt: skip
        notes.append(", ".join(compared))
        notes.append(f"MeViS {rates['whole']['mevis_hours']:.2f} h")
        if (share := rates["whole"]["busy_by_driver"]) is not None:
            notes.append(f"busy {100 * share:.0f}%")
    if "bare" in known:
        notes.append(f"peak {rates['bare']['peak_bytes'] / 2**30:.1f} GiB")
    if (said := rates.get("graphs", "captured")) != "captured":
        notes.append(f"no graphs: {said[:200]}")
    return "; ".join(notes)


def _errors(found: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, each in found.items():
        if name == "error":
            yield prefix or "all", each
        elif isinstance(each, dict):
            yield from _errors(each, f"{prefix} {name}".strip())
