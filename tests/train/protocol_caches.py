"""Small caches of the benchmarks' data sets, and an untrained head for them."""

from pathlib import Path

import numpy as np
import torch
from pycocotools import mask as coco

from cache_schema.codecs import get_codec
from cache_schema.migrations import facts_of
from cache_schema.writer import CacheWriter
from tests import synthetic
from train.config import load_config
from train.data.compatible import signature
from train.heads import CacheSizes, build_head

#: The frozen models of `synthetic.write_cache` with its default seed.
MODELS = {"segmenter": {"name": "synthetic", "seed": 0}}
#: Of a cache of `tests.synthetic`.
SIZES = CacheSizes(16, 24, 16, num_video_queries=4, num_classes=3)
CONFIG = """
model = dict(hidden_dim=16, text_dim=24, mask_dim=16, num_motion_queries=4, num_layers=2,
             num_heads=4, feedforward_dim=32)
evaluation = dict(sigma=0.5)
"""


def write_cache(
    path: Path, dataset: str, *, num_videos: int = 2, frames: int = 4, truth: bool = True
) -> list[synthetic.SyntheticVideo]:
    """Synthetic videos under the name of a data set; those of ref_davis have its expressions."""
    videos = [
        synthetic.make_video(i, num_frames=frames + i, num_expressions=8 if i else 4)
        for i in range(num_videos)
    ]
    writer = CacheWriter(
        path,
        fingerprint={**MODELS, "codec": {"name": "float16"}, "data": dataset},
        dataset=dataset,
        split="valid",
        codec=get_codec("float16"),
        facts=facts_of(dataset),
        segmenter=synthetic.make_segmenter(),
    )
    with writer:
        for video in videos:
            if dataset == "ref_davis":
                _as_davis(video)
            if not truth:
                video.objects = {}
                for expression in video.expressions:
                    expression.annotation_ids, expression.object_ids = [], expression.object_ids
            synthetic.write_video(writer, video)
    return videos


def _as_davis(video: synthetic.SyntheticVideo) -> None:
    """Objects 1 and 2, void where the third was, and four expressions an object."""
    first, second, third = (_masks(rles, video) for rles in video.objects.values())
    second &= ~first
    named = {"1": first, "2": second, "255": third & ~first & ~second}
    video.objects = {name: [_encode(mask) for mask in masks] for name, masks in named.items()}
    for i, expression in enumerate(video.expressions):
        expression.object_ids = expression.annotation_ids = [str(i // 4 + 1)]


def _masks(rles: list, video: synthetic.SyntheticVideo) -> np.ndarray:
    """(T, H, W) bool."""
    size = (video.geometry.height, video.geometry.width)
    return np.stack(
        [np.zeros(size, bool) if r is None else coco.decode(r).astype(bool) for r in rles]
    )


def _encode(mask: np.ndarray) -> dict | None:
    if not mask.any():
        return None
    rle = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(rle["size"]), "counts": rle["counts"].decode()}


def write_head(folder: Path) -> tuple[Path, Path]:
    """A config and the checkpoint of an untrained head whose scores differ."""
    (folder / "config.py").write_text(CONFIG)
    torch.manual_seed(0)
    head = build_head(load_config(folder / "config.py"), SIZES)
    with torch.no_grad():
        head.class_head.weight.mul_(4)  # an untrained head says 0.5 to everything
    weights = {f"head.{name}": value for name, value in head.state_dict().items()}
    cache = {"fingerprint": "ab" * 32, "dataset": "synthetic", "split": "train"}
    training = {"seed": 7, "caches": [{**cache, "models": signature(MODELS, codec=False)}]}
    meta = {"iter": 0, "training": training}
    torch.save({"meta": meta, "state_dict": weights}, folder / "iter_0.pth")
    return folder / "config.py", folder / "iter_0.pth"
