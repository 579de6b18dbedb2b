"""Published weights in our own layout: python -m extract.segmenters.vita.convert SRC DST

Done once; loading the result maps it into memory and renames nothing. SRC is a detectron2
checkpoint of VITA, whose every key has to fit. Exit status: 0, or 2 for bad input.
"""

import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cache_schema.host import cli
from cache_schema.host.cli import InputError
from extract.arguments import presets
from extract.config import load_config
from extract.frozen import NoRandomInit
from extract.segmenters.base import configure
from extract.segmenters.vita.config import RESNET_DEPTHS, VITAConfig
from extract.segmenters.vita.model import VITA
from extract.segmenters.vita.weights import (
    SAFETENSORS,
    read_checkpoint,
    save_safetensors,
    translate,
)


def main(argv: list[str]) -> None:
    parser = cli.parser("extract.segmenters.vita.convert", __doc__)
    add = parser.add_argument
    add("source", type=Path, metavar="SRC", help="detectron2 .pth or .pkl")
    add("target", type=Path, metavar="DST", help="a new .safetensors file")
    add("--config", help="file or preset whose sizes to expect; otherwise those that SRC shows")
    add("--force", action="store_true", help="replace DST if it exists")
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
    of_presets = {name: load_config(name) for name in presets()}
    fitting = [
        name
        for name, preset in of_presets.items()
        if preset.segmenter_type == "vita"
        and _comparable(configure(VITAConfig, preset.segmenter)) == _comparable(sizes)
    ]
    print(
        f"{target}: {target.stat().st_size / 1e6:.1f} MB; "
        + (f"presets of this size: {', '.join(fitting)}" if fitting else "no preset has this size")
    )


def _comparable(sizes: VITAConfig) -> dict[str, Any]:
    """What weights show: not the window over frames; sizes of backbones with their defaults."""
    backbone = sizes.mask2former().backbone_config.to_dict()
    return asdict(sizes) | {"backbone": backbone, "window_size": None}


PREDICTOR = "sem_seg_head.predictor."
PIXEL_DECODER = "sem_seg_head.pixel_decoder.transformer.encoder.layers."


def sizes_of(shapes: Mapping[str, Sequence[int]]) -> VITAConfig:
    """The sizes that weights of these shapes have.

    Args:
        shapes: of a detectron2 layout, by key. Whether they are complete and agree with each other
            is not checked here.

    Returns:
        The sizes. The window of the Object Encoder shows in no shape: it is 0 here.

    Raises:
        InputError: no VITA has such weights; names the key that tells.
    """

    def rows(key: str, axis: int = 0) -> int:
        if key not in shapes or len(shapes[key]) <= axis:
            raise InputError(f"'{key}' is missing or has fewer than {axis + 1} dimensions")
        return shapes[key][axis]

    def count(prefix: str) -> int:
        """How many numbered parts follow a prefix."""
        number = re.compile(re.escape(prefix) + r"(\d+)\.")
        return len({match[1] for key in shapes if (match := number.match(key))})

    if "backbone.stem.conv1.weight" in shapes:
        backbone = _resnet(rows, count)
    else:
        backbone = _swin(rows, count)
    # A deformable layer predicts offsets in x and y of 4 points on 3 levels for each head.
    offsets = rows(f"{PIXEL_DECODER}0.self_attn.sampling_offsets.weight")
    sizes = dict(
        backbone=backbone,
        num_frame_queries=rows(f"{PREDICTOR}query_feat.weight"),
        num_video_queries=rows("vita_module.query_feat.weight"),
        window_size=0,
        num_classes=rows("vita_module.class_embed.weight") - 1,
        hidden_dim=rows("vita_module.query_feat.weight", axis=1),
        mask_dim=rows("vita_module.vita_mask_features.weight"),
        num_heads=offsets // (2 * 4 * 3),
        feedforward_dim=rows(f"{PREDICTOR}transformer_ffn_layers.0.linear1.weight"),
        video_feedforward_dim=rows("vita_module.transformer_ffn_layers.0.linear1.weight"),
        pixel_decoder_layers=count(PIXEL_DECODER),
        # The reference counts the learned queries as a layer.
        decoder_layers=1 + count(f"{PREDICTOR}transformer_ffn_layers."),
        encoder_layers=count("vita_module.enc_ffn."),
        video_decoder_layers=count("vita_module.transformer_ffn_layers."),
    )
    return configure(VITAConfig, sizes)


def _resnet(rows: Callable[..., int], count: Callable[[str], int]) -> dict[str, Any]:
    blocks = tuple(count(f"backbone.res{stage}.") for stage in (2, 3, 4, 5))
    depths = {blocks: depth for depth, blocks in RESNET_DEPTHS.items()}
    if blocks not in depths:
        known = " or ".join(map(str, depths))
        raise InputError(f"'backbone.res*' has {blocks} blocks, where ResNets have {known}")
    return dict(
        type="resnet",
        depth=depths[blocks],
        stem_channels=rows("backbone.stem.conv1.weight"),
        res2_channels=rows("backbone.res2.0.conv3.weight"),
    )


def _swin(rows: Callable[..., int], count: Callable[[str], int]) -> dict[str, Any]:
    tables = [
        f"backbone.layers.{stage}.blocks.0.attn.relative_position_bias_table" for stage in range(4)
    ]
    return dict(
        type="swin",
        embed_dim=rows("backbone.patch_embed.proj.weight"),
        depths=[count(f"backbone.layers.{stage}.blocks.") for stage in range(4)],
        num_heads=[rows(table, axis=1) for table in tables],
        # Distances in a window of w x w tokens go from 1 - w to w - 1 in each direction.
        window_size=(math.isqrt(rows(tables[0])) + 1) // 2,
    )


if __name__ == "__main__":
    sys.exit(cli.run(main))
