"""Golden cases of the original VITA: the shipped ones, and those of $DMVS_GOLDENS if it is set."""

import json
import lzma
import os
import tempfile
from functools import cache
from pathlib import Path

import pytest

from extract.segmenters.vita import VITA, VITAConfig

SHIPPED = Path(__file__).parents[1] / "data" / "goldens"
FULL = Path(os.environ["DMVS_GOLDENS"]) if os.environ.get("DMVS_GOLDENS") else None
FOLDERS = [SHIPPED] if FULL is None else [SHIPPED, FULL]


def cases() -> list:
    """Every ``<model>__T*.npz`` whose model's weights lie beside it."""
    found = {folder: sorted(folder.glob("*__T*.npz")) for folder in FOLDERS}
    for folder, paths in found.items():
        assert paths, f"no golden cases in {folder}: does DMVS_GOLDENS name their folder?"
    return [
        pytest.param(path, id=f"{'shipped' if folder == SHIPPED else 'full'}-{path.stem}")
        for folder, paths in found.items()
        for path in paths
    ]


def model_of(case: Path) -> VITA:
    """The golden model of a case, loaded from its checkpoint."""
    return load(case.parent, case.stem.split("__")[0])


@cache
def load(folder: Path, name: str) -> VITA:
    """A golden model by name."""
    return VITA.load(config_of(folder / f"{name}_config.json"), unpacked(folder / f"{name}.pth"))


@cache
def temporary() -> tempfile.TemporaryDirectory:
    """For this process; it goes with it."""
    return tempfile.TemporaryDirectory(prefix="dmvs-goldens-")


@cache
def unpacked(path: Path) -> Path:
    """The checkpoint as it is, out of its .xz if it was packed."""
    if path.exists():
        return path
    target = Path(temporary().name) / path.name
    target.write_bytes(lzma.decompress(path.with_name(path.name + ".xz").read_bytes()))
    return target


def config_of(path: Path) -> VITAConfig:
    """Sizes from a list of detectron2 overrides: key, value, key, value, ..."""
    overrides = json.loads(path.read_text())["overrides"]
    sizes = dict(zip(overrides[::2], overrides[1::2], strict=True))
    if "MODEL.SWIN.EMBED_DIM" in sizes:
        backbone = {
            "type": "swin",
            "embed_dim": sizes["MODEL.SWIN.EMBED_DIM"],
            "depths": sizes["MODEL.SWIN.DEPTHS"],
            "num_heads": sizes["MODEL.SWIN.NUM_HEADS"],
            "window_size": sizes["MODEL.SWIN.WINDOW_SIZE"],
        }
    else:
        backbone = {
            "type": "resnet",
            "depth": 50,
            "stem_channels": sizes["MODEL.RESNETS.STEM_OUT_CHANNELS"],
            "res2_channels": sizes["MODEL.RESNETS.RES2_OUT_CHANNELS"],
        }
    return VITAConfig(
        backbone=backbone,
        num_frame_queries=sizes["MODEL.MASK_FORMER.NUM_OBJECT_QUERIES"],
        num_video_queries=sizes["MODEL.VITA.NUM_OBJECT_QUERIES"],
        window_size=sizes["MODEL.VITA.ENC_WINDOW_SIZE"],
        num_classes=sizes["MODEL.SEM_SEG_HEAD.NUM_CLASSES"],
        hidden_dim=sizes["MODEL.MASK_FORMER.HIDDEN_DIM"],
        mask_dim=sizes["MODEL.SEM_SEG_HEAD.MASK_DIM"],
        num_heads=sizes["MODEL.MASK_FORMER.NHEADS"],
        feedforward_dim=sizes["MODEL.MASK_FORMER.DIM_FEEDFORWARD"],
        video_feedforward_dim=sizes["MODEL.VITA.DIM_FEEDFORWARD"],
        pixel_decoder_layers=sizes["MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS"],
        decoder_layers=sizes["MODEL.MASK_FORMER.DEC_LAYERS"],
        encoder_layers=sizes["MODEL.VITA.ENC_LAYERS"],
        video_decoder_layers=sizes["MODEL.VITA.DEC_LAYERS"],
    )
