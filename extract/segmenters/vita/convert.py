"""Published weights in our own layout: python -m extract.segmenters.vita.convert SRC DST

Done once; loading the result maps it into memory and renames nothing.
"""

import argparse
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cache_schema.host import cli
from extract.arguments import presets
from extract.config import load_config
from extract.segmenters.base import configure
from extract.segmenters.vita.config import VITAConfig
from extract.segmenters.vita.model import VITA
from extract.segmenters.vita.sizes import sizes_of
from extract.segmenters.vita.weights import (
    SAFETENSORS,
    NoRandomInit,
    read_checkpoint,
    save_safetensors,
    translate,
)


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m extract.segmenters.vita.convert",
        description="Write a detectron2 checkpoint of VITA (.pth or .pkl) as .safetensors. Every "
        "key has to fit. Exit status: 0, or 2 for bad input.",
    )
    parser.add_argument("source", type=Path, metavar="SRC", help="detectron2 .pth or .pkl")
    parser.add_argument("target", type=Path, metavar="DST", help="a new .safetensors file")
    parser.add_argument(
        "--config", help="file or preset whose sizes to expect; otherwise those that SRC shows"
    )
    parser.add_argument("--force", action="store_true", help="replace DST if it exists")
    arguments = parser.parse_args(argv)
    source, target = arguments.source, arguments.target
    if target.suffix != SAFETENSORS:
        raise cli.InputError(f"DST is {target}: give it a name that ends in {SAFETENSORS}")
    if source.suffix == SAFETENSORS:
        raise cli.InputError(f"SRC is {source}, which is our own layout already: use it as it is")
    if not target.parent.is_dir():
        raise cli.InputError(f"the folder of {target} does not exist: make it first")
    if target.exists() and not arguments.force:
        raise cli.InputError(f"{target} exists: give another name, or --force to replace it")
    convert(source, target, arguments.config)


def convert(source: Path, target: Path, config: str | None = None) -> None:
    """Write a published checkpoint in our own layout and say which presets have its sizes.

    Args:
        source: detectron2's ``.pth`` or ``.pkl``.
        config: file or preset with the sizes to expect; None takes those that the shapes show.

    Raises:
        InputError: the source cannot be read or is not of these sizes, or the target cannot be
            written.
    """
    tensors = read_checkpoint(source)
    if config is None:
        try:
            sizes = sizes_of({key: tensor.shape for key, tensor in tensors.items()})
        except cli.InputError as error:
            raise cli.InputError(f"weights {source} are not those of a VITA: {error}") from error
    else:
        sizes = configure(VITAConfig, load_config(config).segmenter)
    with NoRandomInit():
        vita = VITA(sizes)
    vita.load_state_dict(translate(vita, tensors, source), strict=False)
    save_safetensors(vita, target)
    fitting = [name for name in presets() if _has_sizes(name, sizes)]
    print(
        f"{target}: {target.stat().st_size / 1e6:.1f} MB; "
        + (f"presets of this size: {', '.join(fitting)}" if fitting else "no preset has this size")
    )


def _has_sizes(preset: str, sizes: VITAConfig) -> bool:
    config = load_config(preset)
    return config.segmenter_type == "vita" and (
        _comparable(configure(VITAConfig, config.segmenter)) == _comparable(sizes)
    )


def _comparable(sizes: VITAConfig) -> dict[str, Any]:
    """What weights show: not the window over frames; sizes of backbones with their defaults."""
    backbone = sizes.mask2former().backbone_config.to_dict()
    return asdict(sizes) | {"backbone": backbone, "window_size": None}


if __name__ == "__main__":
    sys.exit(cli.run(main))
