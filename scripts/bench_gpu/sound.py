"""Whether everything runs on the device, and agrees with the CPU: the demo, small."""

import argparse
import json
import tempfile
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import cv2
import numpy as np
import torch
from torch import Tensor

from cache_schema.reader import CacheReader
from extract.__main__ import main as extract_main
from extract.codecs.mask_codec import confident
from extract.config import load_config as load_extract_config
from extract.demo.layout import write_split
from extract.pipeline.parts import Images
from extract.stage import AUTOCAST, load_stage
from scripts.bench_train import Steps
from scripts.measuring import Figures, attempt
from train import trainable
from train.__main__ import main as train_main
from train.config import load_config
from train.evaluate import main as evaluate_main
from train.losses.points import sample_points
from train.runner import build_dataset, build_loader

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "train" / "configs" / "demo.py"
VIDEOS = {"train": 30, "valid_u": 6}
WEIGHTS = ROOT / "extract" / "assets" / "vita_tiny.safetensors"


def measure(settings: argparse.Namespace, device: torch.device, figures: Figures) -> None:
    """Enter how far the device is from the CPU, and the demo's figures."""
    name = str(device)
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        data = folder / "data"
        for split, videos in ({"train": 2, "valid_u": 1} if settings.tiny else VIDEOS).items():
            write_split(data, split, videos, 0, 2)

        def demo() -> Figures:
            iterations = 4 if settings.tiny else 200
            for split in ("train", "valid_u"):
                options = ["--data-root", str(data), "--split", split, "--device", name]
                out = ["--weights", str(WEIGHTS), "--out", str(folder / split)]
                extract_main(["demo", *options, *out])
            run = [str(CONFIG), "--device", name]
            short = ["--cfg-options", f"train.max_iters={iterations}"]
            cache = ["--cache", str(folder / "train"), "--work-dir", str(folder / "run")]
            train_main([*run, *cache, *short])
            cache = ["--cache", str(folder / "valid_u"), "--out", str(folder / "out")]
            evaluate_main([*run, *cache, "--checkpoint", str(folder / "run"), *short])
            found = json.loads((folder / "out" / "metrics.json").read_text())
            return {"iterations": iterations} | {n: found[n] for n in ("J&F", "num_expressions")}

        attempt(figures, "demo", demo)
        for precision in ("none", "bfloat16") if settings.tiny else AUTOCAST:
            attempt(
                figures, f"VITA, {precision}", lambda p=precision: compare_vita(data, device, p)
            )
        attempt(figures, "head", lambda: compare_heads(folder / "train", device, settings))
        attempt(figures, "resume", lambda: resume(folder, name, settings))


def compare_vita(data: Path, device: torch.device, precision: str) -> dict[str, float]:
    """VITA in a precision on the device against float32 on the CPU, on a video of the demo.

    Returns:
        The largest differences as parts of the largest value, and the share of mask pixels that
        change, of all and of those inside a mask.
    """
    video = sorted((data / "valid_u" / "JPEGImages").iterdir())[0]
    frames = np.stack([cv2.imread(str(p))[..., ::-1] for p in sorted(video.iterdir())])
    sides = []
    for where, how in (("cpu", "none"), (str(device), precision)):
        config = load_extract_config("demo", {})
        stage = load_stage(config, str(WEIGHTS), where, has_text=False, autocast=how)
        seen, _ = stage.segmenter.frames(stage.prepare(Images(frames)))
        said = stage.segmenter.video(seen.frame_queries[None])
        sure = confident(said.logits[0])
        masks = torch.einsum("nc,tchw->nthw", said.mask_embeds[0], seen.mask_features) > 0
        sides.append((seen.frame_queries, seen.mask_features, said.video_queries, masks, sure))
    cpu, other = ([part.cpu() for part in side] for side in sides)
    names = ("frame queries", "mask features", "video queries")
    found = {n: apart(b, a) for n, a, b in zip(names, cpu, other, strict=False)}
    masks, theirs = (side[3][cpu[4]] for side in (cpu, other))
    changed = (masks != theirs).sum()
    found["mask pixels"] = float(changed / masks.numel())
    found["mask pixels of those inside"] = float(changed / masks.sum())
    return found


def compare_heads(
    path: Path, device: torch.device, settings: argparse.Namespace
) -> dict[str, float]:
    """A head's weights after some steps on the device against the CPU's, with the same points.

    Returns:
        How far apart they are as a part of how far training moved them, after 1 step and after 50,
        with CUDA graphs and without; and the loss after that.
    """
    config = load_config(CONFIG, {"data.num_workers": 0})
    count = 3 if settings.tiny else 50
    config.train.max_iters = count
    dataset = build_dataset([config], [CacheReader(path)], "cpu")
    batches = list(build_loader(config, dataset))

    def trained(where: torch.device, graphs: bool) -> tuple[list[Tensor], float]:
        config.train.graphs = graphs
        steps = Steps(config, where, sizes=dataset.sizes)
        kept = [weights(steps)]
        with same_points():
            for number, batch in enumerate(batches):
                log = steps(batch)
                if number in (0, count - 1):
                    kept.append(weights(steps))
        return kept, float(log["loss"])

    (start, first, last), loss = trained(torch.device("cpu"), False)
    found = {"loss on the CPU": loss}
    for graphs in (True, False):
        (_, own_first, own_last), loss = trained(device, graphs)
        name = "with graphs" if graphs else "without graphs"
        found[f"1 step {name}"] = float((own_first - first).norm() / (first - start).norm())
        found[f"{count} steps {name}"] = float((own_last - last).norm() / (last - start).norm())
        found[f"loss {name}"] = loss
    return found


@contextmanager
def same_points():
    """Random points are drawn on the CPU, whatever the device."""

    def draw(seeds: Sequence[int], device: torch.device):
        random = sample_points(seeds, "cpu")
        return lambda samples, points: random(samples, points).to(device)

    with mock.patch.object(trainable, "sample_points", draw):
        yield


def resume(folder: Path, device: str, settings: argparse.Namespace) -> dict[str, float | bool]:
    """A run that was resumed half way against one that was not."""
    half = 2 if settings.tiny else 20
    ends = []
    for name, stops in {
        "whole": [2 * half],
        "resumed": [half, 2 * half],
        "again": [2 * half],
    }.items():
        for stop in stops:
            train_main(
                [str(CONFIG), "--cache", str(folder / "train"), "--work-dir", str(folder / name),
                 "--device", device, "--resume", "--cfg-options", f"train.max_iters={stop}",
                 "schedule.type=step", "train.checkpoint_interval=1000"]
            )  # fmt: skip
        path = folder / name / f"iter_{2 * half}.pth"
        state = torch.load(path, weights_only=True)["state_dict"]
        ends.append(torch.cat([value.flatten().float() for value in state.values()]))
    whole, resumed, again = ends
    return {
        "bitwise": torch.equal(whole, resumed),
        "largest difference": float((whole - resumed).abs().max()),
        "two equal runs bitwise": torch.equal(whole, again),
        "two equal runs largest difference": float((whole - again).abs().max()),
    }


def weights(steps: Steps) -> Tensor:
    """All parameters as one, on the CPU."""
    return torch.cat([p.detach().flatten().cpu() for p in steps.model.head.parameters()])


def apart(found: Tensor, expected: Tensor) -> float:
    """Largest difference as a part of the largest value."""
    return float((found.double() - expected.double()).abs().max() / expected.abs().max())
