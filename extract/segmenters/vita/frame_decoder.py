"""Mask2Former's masked-attention decoder for inference: maps to frame queries.

Cheng et al., "Masked-attention Mask Transformer for Universal Image Segmentation" (CVPR 2022).
Every layer attends to one of the three coarse maps, and each query only to where its own mask is so
far. The library's modules hold the weights. What differs from the library's forward pass:

- It predicts every mask at stride 4 and then scales it down to the map's size. Scaling and
  predicting are both linear, so here the finest map is scaled down, once for each size, and the
  masks are predicted there. None is predicted after the last layer, where nothing reads it.
- It hides cells where the sigmoid of a logit is below one half: that is where a logit is below 0.
- Attention never writes out its weights, and what it compares with is made once for a map, not in
  every layer.

The numbers are the same up to rounding, but for this: where a logit is zero up to rounding, a query
may see a cell that it did not see, or the other way round.
"""

import torch
from torch import Tensor, nn

from extract.segmenters.vita.pixel_decoder import Pixels
from extract.segmenters.vita.tokens import (
    attend,
    map_of,
    multihead,
    position_tokens,
    resize,
    tokens_of,
)


def decode_queries(transformer: nn.Module, mask_projection: nn.Module, pixels: Pixels) -> Tensor:
    """Frame queries of the last layer.

    Args:
        transformer: the library's ``Mask2FormerTransformerModule``.
        mask_projection: the pixel decoder's 1x1 convolution to mask features.
        pixels: of `decode_pixels`.

    Returns:
        Q_f, (t, N_f, C), after the norm.
    """
    decoder, finest = transformer.decoder, tokens_of(pixels.finest)
    values, keys, mask_features = [], [], []  # of each map: (t, S_l, C), (t, S_l, C_mask)
    for project, tokens, shape, embedding in zip(
        transformer.input_projections,
        pixels.levels,
        pixels.shapes,
        transformer.level_embed.weight,
        strict=True,
    ):
        tokens = tokens_of(project(map_of(tokens, shape))) + embedding
        values.append(tokens)
        keys.append(tokens + position_tokens(tokens.shape[-1], shape, tokens.device))
        with float32(tokens.device):
            small = resize(finest, tuple(pixels.finest.shape[-2:]), shape)
            mask_features.append(tokens_of(mask_projection(map_of(small, shape))))

    queries = transformer.queries_features.weight.expand(len(finest), -1, -1)  # (t, N_f, C)
    positions = transformer.queries_embedder.weight  # (N_f, C)
    for index, layer in enumerate(decoder.layers):
        level = index % len(keys)
        with float32(queries.device):
            embeds = decoder.mask_predictor.mask_embedder(decoder.layernorm(queries))
            visible = _visible(embeds @ mask_features[level].transpose(1, 2))  # (t, N_f, S_l)
        queries = _layer(layer, queries, positions, keys[level], values[level], visible)
    return decoder.layernorm(queries)


def float32(device: torch.device) -> torch.autocast:
    """The context of what stays float32 although a narrower type is asked for around it."""
    return torch.autocast(device.type, enabled=False)


def _visible(logits: Tensor) -> Tensor:
    """Where a query may look, (t, N_f, S_l) bool: inside its mask, or everywhere if it has none."""
    outside = logits < 0
    return ~outside | outside.all(-1, keepdim=True)


def _layer(
    layer: nn.Module,
    queries: Tensor,
    positions: Tensor,
    keys: Tensor,
    values: Tensor,
    visible: Tensor,
) -> Tensor:
    """Masked cross-attention, self-attention and feed-forward, residual and norm after each.

    Args:
        queries: (t, N_f, C).
        positions: (N_f, C), added where queries compare.
        keys, values: (t, S_l, C); keys have their positions added.
        visible: (t, N_f, S_l) bool.

    Returns:
        (t, N_f, C).
    """
    attended = multihead(layer.cross_attn, queries + positions, keys, values, visible)
    queries = layer.cross_attn_layer_norm(queries + attended)

    own, placed = layer.self_attn, queries + positions
    projected = own.q_proj(placed), own.k_proj(placed), own.v_proj(queries)
    attended = own.out_proj(attend(*projected, own.num_heads))
    queries = layer.self_attn_layer_norm(queries + attended)

    widened = layer.activation_fn(layer.fc1(queries))
    return layer.final_layer_norm(queries + layer.fc2(widened))
