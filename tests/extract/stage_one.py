"""Small real data and a small real stage one, for tests that run the whole of it."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from cache_schema.records import Geometry
from extract.config import ExtractConfig, load_config
from extract.demo.layout import write_split
from extract.segmenters.preprocessing import Preprocessor

DEMO = Path(__file__).parents[2] / "extract/configs/demo.py"


def small_config(**options: Any) -> ExtractConfig:
    """The demo's configuration with two clips of four frames."""
    return load_config(DEMO, {"clips.num": 2, "clips.frames": 4, **options})


def small_data(root: Path, videos: int = 2) -> Path:
    """A split `train` of the demo world; returns the root."""
    write_split(root, "train", videos, seed=11)
    return root


def prepare(preprocess: Preprocessor, frame: np.ndarray) -> tuple[torch.Tensor, Geometry]:
    """A frame (H, W, 3) uint8 as an image (3, Hp, Wp) float32, and the sizes of each step."""
    resized = torch.from_numpy(np.array(preprocess.resize(frame)))  # a copy: PIL's is read-only
    return preprocess.normalise(resized[None])[0], preprocess.geometry(*frame.shape[:2])


def edit(path: Path, change: Any) -> None:
    """Change a JSON file in place."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def image_folder(root: Path, name: str, frames: int, size: tuple[int, int] = (48, 64)) -> Path:
    """A video as a folder of random PNG images."""
    rng = np.random.default_rng(frames)
    (root / name).mkdir(parents=True)
    for t in range(frames):
        cv2.imwrite(str(root / name / f"{t:05d}.png"), rng.integers(0, 255, (*size, 3), np.uint8))
    return root
