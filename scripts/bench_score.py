"""How long scoring a mask takes.

    python -m scripts.bench_score [--videos 12] [--frames 40] [--repeats 2] [--json FILE]

Draws videos of 480x854 with six objects and twelve expressions each, and writes predicted masks
with OpenCV and with Pillow, the two usual ways. What is timed is what `scripts.score` runs, with
all cores. It starts its processes anew each time, which is much of the time of a few hundred masks,
a tenth of the default sizes', and next to nothing of that of MeViS's valid_u. Times are the medians
of the repeats.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import cv2
import numpy as np
from PIL import Image

from cache_schema.host import cli
from cache_schema.host.cores import CORES
from extract.datasets.records import encode_mask
from scripts.measuring import listed, machine, options, report, table
from train.evaluation.pngs.expressions import score_masks
from train.records import AnnotatedVideo, ExpressionRef

SIZE = (480, 854)
SIZES = [
    ("videos", 12, "to draw"),
    ("frames", 40, "of a video"),
    ("repeats", 2, "of each measurement"),
    ("workers", CORES, "processes"),
]
OBJECTS = 6
EXPRESSIONS = 12
#: How many expressions mean the same objects; MeViS has 14 expressions and 4 objects a video.
SHARING = {"each its own": 1, "shared by 3": 3}
WRITERS: dict[str, Callable[[Path, np.ndarray], None]] = {
    "OpenCV": lambda path, mask: cv2.imwrite(str(path), mask),
    "Pillow": lambda path, mask: Image.fromarray(mask).save(path),
}


def main(argv: list[str]) -> int:
    """Command line; see the module's docstring."""
    parser = options("bench_score", __doc__, SIZES)
    arguments = parser.parse_args(argv)
    figures = {
        "machine": machine(),
        **{name: getattr(arguments, name) for name, _, _ in SIZES},
        "rows": {
            f"masks by {writer}, truth {sharing}": _measure(writer, sharing, arguments)
            for writer in WRITERS
            for sharing in SHARING
        },
    }
    lines = [*table(figures["rows"]), listed({n: v for n, v in figures.items() if n != "rows"})]
    return report(figures, lines, arguments.json)


def _measure(writer: str, sharing: str, arguments: argparse.Namespace) -> dict[str, float]:
    """Milliseconds a mask, and the mean J&F."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        videos = [
            _draw(root, f"video{v}", arguments.frames, SHARING[sharing], WRITERS[writer], seed=v)
            for v in range(arguments.videos)
        ]
        seconds = []
        for _ in range(arguments.repeats):
            start = time.perf_counter()
            content = score_masks(videos, root, num_videos=len(videos), workers=arguments.workers)
            seconds.append(time.perf_counter() - start)
    masks = content["num_expressions"] * arguments.frames
    return {"ms": 1e3 * median(seconds) / masks, "J&F": content["J&F"]}


def _draw(
    root: Path,
    name: str,
    frames: int,
    sharing: int,
    write: Callable[[Path, np.ndarray], None],
    seed: int,
) -> AnnotatedVideo:
    """Blobs that wander, and predictions that are off by a little: (H, W) masks on disk."""
    rng = np.random.default_rng(seed)
    truth = np.stack([_blobs(rng, frames) for _ in range(OBJECTS)])
    objects = {str(o): [encode_mask(mask) for mask in truth[o]] for o in range(OBJECTS)}
    expressions = []
    for e in range(EXPRESSIONS):
        meaning = e // sharing
        ids = [str(meaning % OBJECTS)]
        if meaning % 4 == 3:  # some mean two objects
            ids.append(str((meaning + 1 + meaning // OBJECTS) % OBJECTS))
        expressions.append(ExpressionRef(name, str(e), "", "", ids, ids))
        (root / name / str(e)).mkdir(parents=True)
        for t in range(frames):
            mask = truth[[int(i) for i in ids], t].max(0)
            mask = np.roll(mask, rng.integers(-6, 7, 2), axis=(0, 1))
            write(root / name / str(e) / f"{t:05d}.png", mask * np.uint8(255))
    return AnnotatedVideo(name, [f"{t:05d}" for t in range(frames)], expressions, objects, SIZE)


def _blobs(rng: np.random.Generator, frames: int) -> np.ndarray:
    """One wobbly disk that moves, (T, H, W) uint8 of 0 and 1: 1 to 12 percent of the image."""
    angle = np.linspace(0, 2 * np.pi, 80, endpoint=False)
    radius = rng.uniform(40, 125) * (1 + np.cumsum(rng.normal(0, 0.03, 80)))
    (y, x), step = rng.uniform((60, 60), np.subtract(SIZE, 60)), rng.uniform(-6, 6, 2)
    masks = np.zeros((frames, *SIZE), np.uint8)
    for t, mask in enumerate(masks):
        points = np.stack([x + step[1] * t + radius * np.cos(angle),
                           y + step[0] * t + radius * np.sin(angle)], axis=1)  # fmt: skip
        cv2.fillPoly(mask, [points.astype(np.int32)], 1)
    return masks


if __name__ == "__main__":
    sys.exit(cli.run(main))
