"""Multi-head attention that never writes out its weights."""

from torch import Tensor, nn
from torch.nn import functional as F


def multihead(
    attention: nn.MultiheadAttention,
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    visible: Tensor | None = None,
) -> Tensor:
    """What the module says without dropout, batch first whatever it was built for.

    The module itself, where nothing is masked and nothing learns, multiplies out (N, N) weights
    for every head; and tokens that are not batch first become a product of their own each.

    Args:
        queries: (B, N, C).
        keys, values: (B, M, C).
        visible: (B, N, M) bool, which keys a query may look at; at least one each.

    Returns:
        (B, N, C).
    """
    weights, biases = attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3)
    projected = map(F.linear, (queries, keys, values), weights, biases)
    return attention.out_proj(attend(*projected, attention.num_heads, visible))


def attend(
    queries: Tensor, keys: Tensor, values: Tensor, heads: int, visible: Tensor | None = None
) -> Tensor:
    """The same between projections, heads side by side: (B, N, C) and (B, M, C) -> (B, N, C)."""
    by_head = [each.unflatten(2, (heads, -1)).transpose(1, 2) for each in (queries, keys, values)]
    mask = None if visible is None else visible.unsqueeze(1)  # (B, 1, N, M)
    mixed = F.scaled_dot_product_attention(*by_head, attn_mask=mask)  # (B, heads, N, D)
    return mixed.transpose(1, 2).flatten(2)
