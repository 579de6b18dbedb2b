"""Names of the published VITA weights (detectron2 layout) in terms of our `VITA`.

The names on our side are those of `transformers` 5.17 to 5.23.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import count

Shape = Sequence[int]

# Prefixes of the two layouts: published, ours.
BACKBONE = ("backbone.", "frame_model.model.pixel_level_module.encoder.")
PIXEL_DECODER = ("sem_seg_head.pixel_decoder.", "frame_model.model.pixel_level_module.decoder.")
PREDICTOR = ("sem_seg_head.predictor.", "frame_model.model.transformer_module.")
CLASSES = ("sem_seg_head.predictor.", "frame_model.")
VIDEO = ("vita_module.", "head.")

# In order: prefixes, pattern of the rest of a published name, the rest of our name. A * in our
# name makes three tensors of one: rows of queries, keys and values follow one another there.
RULES = [
    # Swin
    (BACKBONE, r"patch_embed\.proj\.(.+)", r"swin.embeddings.patch_embeddings.projection.\1"),
    (BACKBONE, r"patch_embed\.norm\.(.+)", r"swin.embeddings.norm.\1"),
    (BACKBONE, r"(layers\.\d+\.blocks\.\d+)\.norm1\.(.+)", r"swin.encoder.\1.layernorm_before.\2"),
    (BACKBONE, r"(layers\.\d+\.blocks\.\d+)\.norm2\.(.+)", r"swin.encoder.\1.layernorm_after.\2"),
    (
        BACKBONE,
        r"(layers\.\d+\.blocks\.\d+)\.attn\.qkv\.(.+)",
        r"swin.encoder.\1.attention.*_proj.\2",
    ),
    (
        BACKBONE,
        r"(layers\.\d+\.blocks\.\d+)\.attn\.proj\.(.+)",
        r"swin.encoder.\1.attention.o_proj.\2",
    ),
    (
        BACKBONE,
        r"(layers\.\d+\.blocks\.\d+)\.attn\.(relative_position_bias_table)",
        r"swin.encoder.\1.attention.relative_position_bias.\2",
    ),
    (BACKBONE, r"(layers\.\d+\.blocks\.\d+\.mlp\..+)", r"swin.encoder.\1"),
    (BACKBONE, r"(layers\.\d+\.downsample\..+)", r"swin.encoder.\1"),
    *[
        (BACKBONE, rf"norm{stage}\.(.+)", rf"hidden_states_norms.stage{stage + 1}.\1")
        for stage in range(4)
    ],
    # ResNet
    (BACKBONE, r"stem\.conv1\.norm\.(.+)", r"embedder.embedder.normalization.\1"),
    (BACKBONE, r"stem\.conv1\.(.+)", r"embedder.embedder.convolution.\1"),
    *[
        rule
        for stage in range(4)
        for theirs, ours in [("shortcut", "shortcut")]
        + [(f"conv{index + 1}", f"layer.{index}") for index in range(3)]
        for rule in [
            (
                BACKBONE,
                rf"res{stage + 2}\.(\d+)\.{theirs}\.norm\.(.+)",
                rf"encoder.stages.{stage}.layers.\1.{ours}.normalization.\2",
            ),
            (
                BACKBONE,
                rf"res{stage + 2}\.(\d+)\.{theirs}\.(weight)",
                rf"encoder.stages.{stage}.layers.\1.{ours}.convolution.\2",
            ),
        ]
    ],
    # Pixel decoder
    (PIXEL_DECODER, r"input_proj\.(.+)", r"input_projections.\1"),
    (PIXEL_DECODER, r"transformer\.level_embed", r"level_embed"),
    (PIXEL_DECODER, r"mask_features\.(.+)", r"mask_projection.\1"),
    (PIXEL_DECODER, r"(adapter_1|layer_1)\.norm\.(.+)", r"\1.1.\2"),
    (PIXEL_DECODER, r"(adapter_1|layer_1)\.(weight)", r"\1.0.\2"),
    (PIXEL_DECODER, r"transformer\.(encoder\.layers\.\d+\.self_attn\..+)", r"\1"),
    (PIXEL_DECODER, r"transformer\.(encoder\.layers\.\d+)\.linear([12])\.(.+)", r"\1.fc\2.\3"),
    (
        PIXEL_DECODER,
        r"transformer\.(encoder\.layers\.\d+)\.norm1\.(.+)",
        r"\1.self_attn_layer_norm.\2",
    ),
    (PIXEL_DECODER, r"transformer\.(encoder\.layers\.\d+)\.norm2\.(.+)", r"\1.final_layer_norm.\2"),
    # Frame-level decoder
    (
        PREDICTOR,
        r"transformer_self_attention_layers\.(\d+)\.self_attn\.in_proj_(.+)",
        r"decoder.layers.\1.self_attn.*_proj.\2",
    ),
    (
        PREDICTOR,
        r"transformer_self_attention_layers\.(\d+)\.self_attn\.(out_proj\..+)",
        r"decoder.layers.\1.self_attn.\2",
    ),
    (
        PREDICTOR,
        r"transformer_self_attention_layers\.(\d+)\.norm\.(.+)",
        r"decoder.layers.\1.self_attn_layer_norm.\2",
    ),
    (
        PREDICTOR,
        r"transformer_cross_attention_layers\.(\d+)\.multihead_attn\.(.+)",
        r"decoder.layers.\1.cross_attn.\2",
    ),
    (
        PREDICTOR,
        r"transformer_cross_attention_layers\.(\d+)\.norm\.(.+)",
        r"decoder.layers.\1.cross_attn_layer_norm.\2",
    ),
    (
        PREDICTOR,
        r"transformer_ffn_layers\.(\d+)\.linear([12])\.(.+)",
        r"decoder.layers.\1.fc\2.\3",
    ),
    (
        PREDICTOR,
        r"transformer_ffn_layers\.(\d+)\.norm\.(.+)",
        r"decoder.layers.\1.final_layer_norm.\2",
    ),
    (PREDICTOR, r"decoder_norm\.(.+)", r"decoder.layernorm.\1"),
    (PREDICTOR, r"mask_embed\.layers\.(\d)\.(.+)", r"decoder.mask_predictor.mask_embedder.\1.0.\2"),
    (PREDICTOR, r"query_embed\.(.+)", r"queries_embedder.\1"),
    (PREDICTOR, r"query_feat\.(.+)", r"queries_features.\1"),
    (PREDICTOR, r"level_embed\.(.+)", r"level_embed.\1"),
    (CLASSES, r"class_embed\.(.+)", r"class_predictor.\1"),
    # Video head: the same names
    (VIDEO, r"(.+)", r"\1"),
]
COMPILED = [
    (re.compile(re.escape(theirs) + pattern), ours + name)
    for (theirs, ours), pattern, name in RULES
]


def _reversed(theirs: str, ours: str, pattern: str, name: str) -> tuple[re.Pattern[str], str]:
    """A rule the other way round: a pattern for our names, and the published key."""
    group, numbers = re.compile(r"\([^()]+\)"), count(1)
    regex = re.escape(ours + name).replace(r"\*", "[qkv]")
    for number, inside in enumerate(group.findall(pattern), 1):
        regex = regex.replace(rf"\\{number}", inside)
    key = group.sub(lambda _: rf"\{next(numbers)}", pattern).replace(r"\.", ".")
    return re.compile(regex), theirs + key


REVERSED = [_reversed(*prefixes, pattern, name) for prefixes, pattern, name in RULES]

# Published, but not needed for inference: the whole list. To each pattern the name of a tensor of
# ours that tells its shape, and how.
NOT_NEEDED: list[tuple[re.Pattern[str], str, Callable[[Shape], Shape]]] = [
    (  # follows from the window size w, as does the table of (2w - 1)^2 distances
        re.compile(r"backbone\.(layers\.\d+\.blocks\.\d+)\.attn\.relative_position_index"),
        f"{BACKBONE[1]}swin.encoder.\\1.attention.relative_position_bias"
        ".relative_position_bias_table",
        lambda table: (((math.isqrt(table[0]) + 1) // 2) ** 2,) * 2,
    ),
    (  # weights of the classes in losses, no-object included
        re.compile(r"(?:vita_)?criterion\.empty_weight"),
        "head.class_embed.bias",
        lambda bias: bias,
    ),
]


def rename(key: str) -> list[str] | None:
    """Our names for a published key.

    Returns:
        One name; three if the tensor is to be cut into queries, keys and values along its first
        dimension; none if it is not needed; None for a key that VITA does not have.
    """
    if any(pattern.fullmatch(key) for pattern, _, _ in NOT_NEEDED):
        return []
    for pattern, name in COMPILED:
        if match := pattern.fullmatch(key):
            ours = match.expand(name)
            return [ours.replace("*", part) for part in "qkv"] if "*" in ours else [ours]
    return None


def published(name: str) -> str:
    """The published key of one of our names, or the name if there is none: undoes `rename`."""
    for pattern, key in REVERSED:
        if match := pattern.fullmatch(name):
            return match.expand(key)
    return name


def shape_of_not_needed(key: str, own: Mapping[str, Shape]) -> Shape | None:
    """The shape of a published tensor that is not needed.

    Args:
        key: one that `rename` has no names for.
        own: shapes of our model, by name.

    Returns:
        Its shape, or None if the model has no place for it.
    """
    for pattern, name, shape in NOT_NEEDED:
        if (match := pattern.fullmatch(key)) and match.expand(name) in own:
            return tuple(shape(own[match.expand(name)]))
    return None
