"""The sizes of a published VITA, from the shapes of its weights."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cache_schema.host.cli import InputError
from extract.segmenters.vita.config import RESNET_DEPTHS, VITAConfig

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
    return VITAConfig(
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
