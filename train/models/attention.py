"""The attention blocks that the encoder and the decoder are made of, post-norm throughout."""

from torch import Tensor, nn


class Attention(nn.Module):
    """Multi-head attention, residual, LayerNorm: the learned form of ``Q + softmax(Q K^T) K``.

    Args:
        dim: channels C.
        num_heads: must divide C.
        dropout: on the attention weights and on what is added to the queries.
    """

    def __init__(self, dim: int, num_heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(dim, num_heads, dropout=dropout, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(dim)

    def forward(self, queries: Tensor, keys: Tensor, key_mask: Tensor | None = None) -> Tensor:
        """Let the queries read the keys.

        Args:
            queries: (B, Q, C).
            keys: (B, S, C); also the values.
            key_mask: (B, S) bool, True where a key is real. At least one per row.

        Returns:
            (B, Q, C).
        """
        padding = None if key_mask is None else ~key_mask
        read, _ = self.attention(queries, keys, keys, key_padding_mask=padding, need_weights=False)
        return self.norm(queries + self.dropout(read))


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

    def forward(self, queries: Tensor) -> Tensor:
        return self.norm(queries + self.layers(queries))
