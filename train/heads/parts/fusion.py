"""Frame queries and words that read each other, as in GLIP and Grounding DINO."""

import torch
from torch import Tensor, nn


class Fusion(nn.Module):
    """Attention in both directions over one table of likenesses, added with a learned small scale.

    Args:
        dim: channels C of both sides.
        inner_dim: channels in between.
        num_heads: must divide them.
        dropout: of the attention weights, and of what a sample adds as a whole.
    """

    def __init__(self, dim: int, inner_dim: int, num_heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.frame_norm, self.word_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.frame_query, self.word_key, self.frame_value, self.word_value = (
            nn.Linear(dim, inner_dim) for _ in range(4)
        )
        self.frame_out, self.word_out = nn.Linear(inner_dim, dim), nn.Linear(inner_dim, dim)
        self.frame_scale = nn.Parameter(torch.full((dim,), 1e-4))
        self.word_scale = nn.Parameter(torch.full((dim,), 1e-4))
        self.dropout = nn.Dropout(dropout)
        for layer in self.children():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)

    def forward(
        self, frames: Tensor, frame_mask: Tensor, words: Tensor, word_mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Fuse.

        Args:
            frames: (B, S, C), all frame queries.
            frame_mask: (B, S) bool, at least one True a row.
            words: (B, K, C).
            word_mask: (B, K) bool, at least one True a row.

        Returns:
            Both sides, normalised and with what they have read.
        """
        frames, words = self.frame_norm(frames), self.word_norm(words)
        query, key, frame_value, word_value = (
            layer(side).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for layer, side in (
                (self.frame_query, frames),
                (self.word_key, words),
                (self.frame_value, frames),
                (self.word_value, words),
            )
        )  # (B, heads, S or K, D) each
        logits = (query @ key.mT).float() / query.shape[-1] ** 0.5  # (B, heads, S, K)
        least = torch.finfo(logits.dtype).min
        to_words = logits.masked_fill(~word_mask[:, None, None], least).softmax(dim=3)
        to_frames = logits.masked_fill(~frame_mask[:, None, :, None], least).softmax(dim=2)
        for_frames = self.dropout(to_words).to(query.dtype) @ word_value
        for_words = self.dropout(to_frames).to(query.dtype).mT @ frame_value
        frame_more = self.frame_scale * self.frame_out(for_frames.transpose(1, 2).flatten(2))
        word_more = self.word_scale * self.word_out(for_words.transpose(1, 2).flatten(2))
        return frames + self._drop_path(frame_more), words + self._drop_path(word_more)

    def _drop_path(self, more: Tensor) -> Tensor:
        """Leave out what some samples add (stochastic depth)."""
        return more * self.dropout(more.new_ones(len(more), 1, 1))
