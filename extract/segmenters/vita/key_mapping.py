"""Names of the published VITA weights (detectron2 layout) in terms of our `VITA`.

The names on our side are those of `transformers` 5.17 to 5.23.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import count

Shape = Sequence[int]

# A table for each part, under the prefixes of the published layout and of ours: pattern of the rest
# of a published name, the rest of our name. What stands above goes first. A * in our name makes
# three tensors of one: rows of queries, keys and values follow one another there.
BACKBONE = "frame_model.model.pixel_level_module.encoder."
SWIN = r"""
patch_embed\.proj\.(.+)                              swin.embeddings.patch_embeddings.projection.\1
patch_embed\.norm\.(.+)                              swin.embeddings.norm.\1
(layers\.\d+\.blocks\.\d+)\.norm1\.(.+)             swin.encoder.\1.layernorm_before.\2
(layers\.\d+\.blocks\.\d+)\.norm2\.(.+)             swin.encoder.\1.layernorm_after.\2
(layers\.\d+\.blocks\.\d+)\.attn\.qkv\.(.+)         swin.encoder.\1.attention.*_proj.\2
(layers\.\d+\.blocks\.\d+)\.attn\.proj\.(.+)        swin.encoder.\1.attention.o_proj.\2
(layers\.\d+\.blocks\.\d+)\.attn\.(relative_position_bias_table) \
                            swin.encoder.\1.attention.relative_position_bias.\2
(layers\.\d+\.blocks\.\d+\.mlp\..+)                 swin.encoder.\1
(layers\.\d+\.downsample\..+)                       swin.encoder.\1
""" + "".join(
    rf"norm{stage}\.(.+) hidden_states_norms.stage{stage + 1}.\1" + "\n" for stage in range(4)
)
RESNET = r"""
stem\.conv1\.norm\.(.+)                             embedder.embedder.normalization.\1
stem\.conv1\.(.+)                                   embedder.embedder.convolution.\1
""" + "".join(
    rf"""
res{stage + 2}\.(\d+)\.{theirs}\.norm\.(.+) encoder.stages.{stage}.layers.\1.{ours}.normalization.\2
res{stage + 2}\.(\d+)\.{theirs}\.(weight) encoder.stages.{stage}.layers.\1.{ours}.convolution.\2
"""
    for stage in range(4)
    for theirs, ours in [
        ("shortcut", "shortcut"),
        *((f"conv{k + 1}", f"layer.{k}") for k in range(3)),
    ]
)
PIXEL_DECODER = r"""
input_proj\.(.+)                                     input_projections.\1
transformer\.level_embed                             level_embed
mask_features\.(.+)                                  mask_projection.\1
(adapter_1|layer_1)\.norm\.(.+)                      \1.1.\2
(adapter_1|layer_1)\.(weight)                        \1.0.\2
transformer\.(encoder\.layers\.\d+\.self_attn\..+)   \1
transformer\.(encoder\.layers\.\d+)\.linear([12])\.(.+) \1.fc\2.\3
transformer\.(encoder\.layers\.\d+)\.norm1\.(.+)     \1.self_attn_layer_norm.\2
transformer\.(encoder\.layers\.\d+)\.norm2\.(.+)     \1.final_layer_norm.\2
"""
PREDICTOR = r"""
transformer_self_attention_layers\.(\d+)\.self_attn\.in_proj_(.+) \
                                                     decoder.layers.\1.self_attn.*_proj.\2
transformer_self_attention_layers\.(\d+)\.self_attn\.(out_proj\..+) decoder.layers.\1.self_attn.\2
transformer_self_attention_layers\.(\d+)\.norm\.(.+) decoder.layers.\1.self_attn_layer_norm.\2
transformer_cross_attention_layers\.(\d+)\.multihead_attn\.(.+) decoder.layers.\1.cross_attn.\2
transformer_cross_attention_layers\.(\d+)\.norm\.(.+) decoder.layers.\1.cross_attn_layer_norm.\2
transformer_ffn_layers\.(\d+)\.linear([12])\.(.+)   decoder.layers.\1.fc\2.\3
transformer_ffn_layers\.(\d+)\.norm\.(.+)           decoder.layers.\1.final_layer_norm.\2
decoder_norm\.(.+)                                   decoder.layernorm.\1
mask_embed\.layers\.(\d)\.(.+)                      decoder.mask_predictor.mask_embedder.\1.0.\2
query_embed\.(.+)                                    queries_embedder.\1
query_feat\.(.+)                                     queries_features.\1
level_embed\.(.+)                                    level_embed.\1
"""
# The video head has the same names.
TABLES = [
    ("backbone.", BACKBONE, SWIN + RESNET),
    ("sem_seg_head.pixel_decoder.", "frame_model.model.pixel_level_module.decoder.", PIXEL_DECODER),
    ("sem_seg_head.predictor.", "frame_model.model.transformer_module.", PREDICTOR),
    ("sem_seg_head.predictor.", "frame_model.", r"class_embed\.(.+) class_predictor.\1"),
    ("vita_module.", "head.", r"(.+) \1"),
]
RULES = [
    ((theirs, ours), *line.split())
    for theirs, ours, table in TABLES
    for line in table.replace("\\\n", " ").splitlines()
    if line
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
        f"{BACKBONE}swin.encoder.\\1.attention.relative_position_bias.relative_position_bias_table",
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
