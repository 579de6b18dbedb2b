"""Motion Query Decoder: motion queries read the words and the motion expression, equation (8)."""

from torch import Tensor, nn

from train.models.attention import Attention, FeedForward


class DecoderLayer(nn.Module):
    """Cross-attention to words, cross-attention to F_me, self-attention, feed-forward."""

    def __init__(
        self, dim: int, num_heads: int, feedforward_dim: int, *, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.to_words = Attention(dim, num_heads, dropout)
        self.to_expression = Attention(dim, num_heads, dropout)
        self.to_queries = Attention(dim, num_heads, dropout)
        self.feedforward = FeedForward(dim, feedforward_dim, dropout)

    def forward(
        self, queries: Tensor, words: Tensor, *, word_mask: Tensor, expression: Tensor
    ) -> Tensor:
        """One layer of Eq. (8): queries (B, N_m, C) to (B, N_m, C); see the decoder."""
        queries = self.to_words(queries, words, word_mask)
        queries = self.to_expression(queries, expression)
        queries = self.to_queries(queries, queries)
        return self.feedforward(queries)


class MotionQueryDecoder(nn.Module):
    """Q'_m = Decoder(Q_m, F_w, F_me), Eq. (8).

    Args:
        dim: channels C.
        num_layers: decoder layers, 6 in the paper.
        num_heads: attention heads.
        feedforward_dim: hidden width of the feed-forward block.
        dropout: dropout rate.
    """

    def __init__(
        self,
        dim: int,
        num_layers: int,
        num_heads: int,
        *,
        feedforward_dim: int,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            DecoderLayer(dim, num_heads, feedforward_dim, dropout=dropout)
            for _ in range(num_layers)
        )

    def forward(
        self, queries: Tensor, words: Tensor, *, word_mask: Tensor, expression: Tensor
    ) -> list[Tensor]:
        """Decode.

        Args:
            queries: Q_m, (B, N_m, C).
            words: F_w, (B, K_w, C).
            word_mask: (B, K_w) bool, at least one True a row.
            expression: F_me, (B, 1, C).

        Returns:
            The queries after each layer, (B, N_m, C) each; the last is Q'_m.
        """
        outputs = []
        for layer in self.layers:
            queries = layer(queries, words, word_mask=word_mask, expression=expression)
            outputs.append(queries)
        return outputs
