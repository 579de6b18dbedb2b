"""The attention blocks that the encoder and the decoder are made of, post-norm throughout."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from cache_schema.host.cli import InputError


class Attention(nn.Module):
    """Multi-head attention, residual, LayerNorm: the learned form of ``Q + softmax(Q K^T) K``.

    Args:
        num_heads: must divide C.
        dropout: on the attention weights and on what is added to the queries.
    """

    def __init__(self, dim: int, num_heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(dim, num_heads, dropout=dropout, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(dim)

    @property
    def last(self) -> nn.Linear:
        """The layer whose output is added to the queries."""
        return self.attention.out_proj

    def forward(self, queries: Tensor, keys: Tensor, key_mask: Tensor | None = None) -> Tensor:
        """Let the queries read the keys.

        Args:
            queries: (B, Q, C).
            keys: (B, S, C); also the values.
            key_mask: (B, S) bool, True where a key is real. At least one per row.

        Returns:
            (B, Q, C).
        """
        return self._read(queries, queries, keys, keys, key_mask)

    def _read(
        self, queries: Tensor, placed: Tensor, keys: Tensor, values: Tensor, key_mask: Tensor | None
    ) -> Tensor:
        masks = {"key_padding_mask": None if key_mask is None else ~key_mask}
        if key_mask is not None and len(key_mask) == 1 and not torch.is_grad_enabled():
            # The same numbers; to look at a padding mask, torch loads sympy for half a second.
            masks = {"attn_mask": ~key_mask.expand(queries.shape[1], -1)}
        read, _ = self.attention(placed, keys, values, need_weights=False, **masks)
        return self.norm(queries + self.dropout(read))

    def over_chunks(self, queries: Tensor, chunks: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
        """What `forward` gives for all chunks of keys together, with one in memory at a time.

        The softmax is carried from chunk to chunk by its largest logit and its sum, so the result
        differs by rounding only. Dropout does not take part: for inference.

        Args:
            queries: (B, Q, C).
            chunks: keys (B, S_i, C) and their masks (B, S_i); at least one key is real in all.

        Returns:
            (B, Q, C).
        """
        inner, heads = self.attention, self.attention.num_heads
        weights, biases = inner.in_proj_weight.chunk(3), inner.in_proj_bias.chunk(3)

        def project(tensor: Tensor, which: int) -> Tensor:  # (B, n, C) to (B, heads, n, C / heads)
            flat = functional.linear(tensor, weights[which], biases[which])
            return flat.unflatten(-1, (heads, -1)).transpose(1, 2)

        query = project(queries, 0)
        query = query / query.shape[-1] ** 0.5
        highest = query.new_full((*query.shape[:-1], 1), torch.finfo(query.dtype).min)
        total, read = torch.zeros_like(highest), torch.zeros_like(query)
        for keys, mask in chunks:
            logits = query @ project(keys, 1).transpose(-1, -2)  # (B, heads, Q, S_i)
            logits = logits.masked_fill(~mask[:, None, None], -torch.inf)
            higher = torch.maximum(highest, logits.amax(-1, keepdim=True))
            shrink, parts = (highest - higher).exp(), (logits - higher).exp()
            total = total * shrink + parts.sum(-1, keepdim=True)
            read = read * shrink + parts @ project(keys, 2)
            highest = higher
        read = inner.out_proj((read / total).transpose(1, 2).flatten(2))
        return self.norm(queries + read)


class PlacedAttention(Attention):
    """`Attention` with positions, which are added to queries and keys, not to values."""

    def forward(
        self,
        queries: Tensor,
        values: Tensor,
        key_mask: Tensor | None = None,
        *,
        position: Tensor | None,
        keys: Tensor | None = None,
    ) -> Tensor:
        """Let queries (B, Q, C) at a position (Q, C) read values (B, S, C) by their placed keys.

        Without ``keys`` the values are queries with the same positions.
        """
        if position is None:
            return super().forward(queries, values, key_mask)
        keys = values + position if keys is None else keys
        return self._read(queries, queries + position, keys, values, key_mask)


class FeedForward(nn.Module):
    """Two linear layers with ReLU, residual, LayerNorm; (B, Q, C) to (B, Q, C)."""

    def __init__(self, dim: int, hidden_dim: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(dim, hidden_dim),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden_dim, dim),
            nn.Dropout(dropout),
        )
        self.norm = nn.LayerNorm(dim)

    @property
    def last(self) -> nn.Linear:
        """See `Attention.last`."""
        return self.layers[3]

    def forward(self, queries: Tensor) -> Tensor:
        return self.norm(queries + self.layers(queries))


#: Frames that are read at once when no gradient is kept; videos up to this are not cut.
CHUNK_FRAMES = 32


def read_frames(
    attention: Attention,
    queries: Tensor,
    frame_queries: Tensor,
    frame_mask: Tensor,
    *,
    enhance: Callable[[Tensor], Tensor] | None = None,
    chunk_frames: int = CHUNK_FRAMES,
) -> Tensor:
    """Let queries read the frame queries of a video of any length.

    Args:
        queries: (B, Q, C).
        frame_queries: Q_f, (B, T, N_f, C).
        frame_mask: (B, T) bool, True for real frames, at least one a row.
        enhance: what is done to the keys (B, n, C) before, each for itself.
        chunk_frames: frames in memory at once where no gradient is kept.

    Returns:
        (B, Q, C).
    """
    if torch.is_grad_enabled() or frame_queries.shape[1] <= chunk_frames:
        keys, mask = _flat(frame_queries, frame_mask)
        return attention(queries, enhance(keys) if enhance else keys, mask)
    pairs = zip(
        frame_queries.split(chunk_frames, dim=1), frame_mask.split(chunk_frames, dim=1), strict=True
    )
    chunks = (_flat(*pair) for pair in pairs)
    if enhance:
        chunks = ((enhance(keys), mask) for keys, mask in chunks)
    return attention.over_chunks(queries, chunks)


def _flat(frame_queries: Tensor, frame_mask: Tensor) -> tuple[Tensor, Tensor]:
    """(B, T, N_f, C) and (B, T) to keys (B, T * N_f, C) and their mask (B, T * N_f)."""
    mask = frame_mask[:, :, None].expand(frame_queries.shape[:3])
    return frame_queries.flatten(1, 2), mask.flatten(1)


def three_layers(dim: int, out_dim: int, between: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """Three linear layers with an activation between them."""
    return nn.Sequential(
        nn.Linear(dim, dim), between(), nn.Linear(dim, dim), between(), nn.Linear(dim, out_dim)
    )


def check_heads(model: Mapping[str, Any]) -> None:
    """Refuse attention heads that do not share the channels evenly, with an `InputError`."""
    dim, heads = model["hidden_dim"], model["num_heads"]
    if dim % heads:
        raise InputError(
            f"config key model.hidden_dim is {dim}, which model.num_heads = {heads} does not divide"
        )
