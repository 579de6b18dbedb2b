"""Motion Query Decoder: motion queries read the words and the motion expression, equation (8)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from train.heads.parts.attention import Attention, FeedForward, PlacedAttention, read_frames

#: What motion queries may read: F_w, F_me, Q_v, Q_f.
READS = ("words", "expression", "video", "frames")


@dataclass
class Memory:
    """What the decoder reads.

    Attributes:
        keys: by the names of `READS` but "frames", keys (B, S, C) and their mask (B, S), at least
            one True a row, or None where all are real.
        frame_queries: Q_f, (B, T, N_f, C).
        frame_mask: (B, T) bool.
    """

    keys: Mapping[str, tuple[Tensor, Tensor | None]]
    frame_queries: Tensor
    frame_mask: Tensor


class DecoderLayer(nn.Module):
    """Cross-attentions in the order of ``reads``, self-attention, feed-forward."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        feedforward_dim: int,
        *,
        reads: Sequence[str],
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.reads = nn.ModuleDict({name: Attention(dim, num_heads, dropout) for name in reads})
        self.to_queries = PlacedAttention(dim, num_heads, dropout)
        self.feedforward = FeedForward(dim, feedforward_dim, dropout)

    def forward(self, queries: Tensor, memory: Memory, position: Tensor | None) -> Tensor:
        """One layer of Eq. (8): queries (B, N_m, C), perhaps placed (N_m, C), to (B, N_m, C)."""
        for name, attention in self.reads.items():
            if name == "frames":
                queries = read_frames(attention, queries, memory.frame_queries, memory.frame_mask)
            else:
                queries = attention(queries, *memory.keys[name])
        queries = self.to_queries(queries, queries, position=position)
        return self.feedforward(queries)


class MotionQueryDecoder(nn.Module):
    """Q'_m = Decoder(Q_m, F_w, F_me), Eq. (8).

    Args:
        num_layers: decoder layers, 6 in the paper.
        reads: of `READS`, what the queries read in each layer, in this order.
    """

    def __init__(
        self,
        dim: int,
        num_layers: int,
        num_heads: int,
        *,
        feedforward_dim: int,
        reads: Sequence[str] = ("words", "expression"),
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.dim = dim
        self.layers = nn.ModuleList(
            DecoderLayer(dim, num_heads, feedforward_dim, reads=reads, dropout=dropout)
            for _ in range(num_layers)
        )
        self.position: nn.Embedding | None = None

    def place(self, num_queries: int) -> None:
        """Give each of N_m queries a learned place, which it has where queries read each other."""
        self.position = nn.Embedding(num_queries, self.dim)
        nn.init.zeros_(self.position.weight)

    def start_as_identity(self) -> None:
        """Let each layer add nothing at first: its queries pass, but for the norms."""
        for block in self.modules():
            if isinstance(block, (Attention, FeedForward)):
                nn.init.zeros_(block.last.weight)
                nn.init.zeros_(block.last.bias)

    def forward(self, queries: Tensor, memory: Memory) -> list[Tensor]:
        """Decode.

        Args:
            queries: Q_m, (B, N_m, C).
            memory: what is read.

        Returns:
            The queries after each layer, (B, N_m, C) each; the last is Q'_m.
        """
        outputs = []
        position = None if self.position is None else self.position.weight[: queries.shape[1]]
        for layer in self.layers:
            queries = layer(queries, memory, position)
            outputs.append(queries)
        return outputs
