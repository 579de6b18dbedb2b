"""VITA's Object Encoder and Object Decoder, which LMPM and DsHmp train over frame queries.

Heo et al., "VITA: Video Instance Segmentation via Object Token Association" (NeurIPS 2022).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from train.heads.parts.attention import Attention, FeedForward, PlacedAttention

#: Windows that go through a layer together where no gradient is kept.
GROUP = 16

Words = tuple[Tensor, Tensor]
"""Keys (B, K, C) and their mask (B, K) bool, at least one True a row."""


class EncoderLayer(nn.Module):
    """Attention among the frame queries of a window, what a head puts between, feed-forward."""

    def __init__(self, dim: int, num_heads: int, feedforward_dim: int) -> None:
        super().__init__()
        self.attention = Attention(dim, num_heads)
        self.between: nn.Module | None = None
        self.feedforward = FeedForward(dim, feedforward_dim)

    def forward(self, tokens: Tensor, real: Tensor, words: Words | None = None) -> Tensor:
        """Encode windows.

        Args:
            tokens: (n, W, N_f, C), of n windows.
            real: (n, W) bool, True for real frames, at least one a row.
            words: of each window, for what is between.

        Returns:
            (n, W, N_f, C).
        """
        flat = tokens.flatten(1, 2)  # (n, W * N_f, C)
        mask = real[:, :, None].expand(tokens.shape[:3]).flatten(1)
        tokens = self.attention(flat, flat, mask).view_as(tokens)
        if self.between is not None:
            tokens = self.between(tokens, real, words)
        return self.feedforward(tokens)


class ObjectEncoder(nn.Module):
    """Layers of attention within windows of W frames.

    As in the reference, windows shift by half in every second layer, but not in training.
    """

    def __init__(
        self, dim: int, num_layers: int, num_heads: int, *, feedforward_dim: int, window: int
    ) -> None:
        super().__init__()
        self.window = window
        self.layers = nn.ModuleList(
            EncoderLayer(dim, num_heads, feedforward_dim) for _ in range(num_layers)
        )

    def forward(
        self, frame_queries: Tensor, frame_mask: Tensor, words: Words | None = None
    ) -> Tensor:
        """Encode frame queries (B, T, N_f, C) with their mask (B, T); the same shape."""
        for number, layer in enumerate(self.layers):
            shifted = number % 2 == 1 and not self.training
            front = -(-self.window // 2) if shifted else 0
            frame_queries = self._encode(layer, frame_queries, frame_mask, front, words)
        return frame_queries

    def _encode(
        self,
        layer: EncoderLayer,
        frame_queries: Tensor,
        frame_mask: Tensor,
        front: int,
        words: Words | None,
    ) -> Tensor:
        batch, frames = frame_mask.shape
        back = -(front + frames) % self.window
        tokens = functional.pad(frame_queries, (0, 0, 0, 0, front, back))
        tokens = tokens.unflatten(1, (-1, self.window)).flatten(0, 1)  # (n, W, N_f, C)
        real = functional.pad(frame_mask, (front, back))
        real = real.unflatten(1, (-1, self.window)).flatten(0, 1)  # (n, W)
        real = real | ~real.any(dim=1, keepdim=True)  # softmax over no frame is not a number
        step = len(tokens) if torch.is_grad_enabled() else GROUP
        of = [own.repeat_interleave(len(tokens) // batch, dim=0) for own in words or ()]
        parts = [
            layer(tokens[at], real[at], tuple(own[at] for own in of) or None)
            for at in (slice(start, start + step) for start in range(0, len(tokens), step))
        ]
        tokens = torch.cat(parts).unflatten(0, (batch, -1)).flatten(1, 2)
        return tokens[:, front : front + frames]


class ObjectDecoderLayer(nn.Module):
    """Cross-attention to all frame queries, to words if asked for, self-attention, feed-forward."""

    def __init__(
        self, dim: int, num_heads: int, feedforward_dim: int, *, reads_words: bool = False
    ) -> None:
        super().__init__()
        self.to_frames = PlacedAttention(dim, num_heads)
        self.to_words = Attention(dim, num_heads) if reads_words else None
        self.to_queries = PlacedAttention(dim, num_heads)
        self.feedforward = FeedForward(dim, feedforward_dim)

    def forward(
        self,
        queries: Tensor,
        frame_queries: Tensor,
        frame_mask: Tensor,
        *,
        position: Tensor,
        frame_position: Tensor,
        words: Words | None = None,
    ) -> Tensor:
        """Decode.

        Args:
            queries: (B, N_m, C).
            frame_queries: (B, T, N_f, C).
            frame_mask: (B, T) bool.
            position: of the queries, (N_m, C).
            frame_position: of the frame queries, the same in each frame, (N_f, C).
            words: to read.

        Returns:
            (B, N_m, C).
        """
        mask = frame_mask[:, :, None].expand(frame_queries.shape[:3]).flatten(1)
        values = frame_queries.flatten(1, 2)  # (B, T * N_f, C)
        keys = (frame_queries + frame_position).flatten(1, 2)
        queries = self.to_frames(queries, values, mask, position=position, keys=keys)
        if self.to_words is not None:
            queries = self.to_words(queries, *words)
        queries = self.to_queries(queries, queries, position=position)
        return self.feedforward(queries)
