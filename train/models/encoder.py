"""Motion Expression Encoder: what the sentence means in this video, equations (1) to (4)."""

from torch import Tensor, nn

from train.models.attention import Attention
from train.models.text import keys_with_stand_in


class MotionExpressionEncoder(nn.Module):
    """Static words into frame queries, motion words into video queries, then the sentence
    through both. Each equation's softmax product is one learned `Attention`.

    Args:
        dim: channels C.
        num_heads: attention heads.
        dropout: dropout rate.
    """

    def __init__(self, dim: int, num_heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.static_to_frames = Attention(dim, num_heads, dropout)
        self.motion_to_video = Attention(dim, num_heads, dropout)
        self.sentence_to_frames = Attention(dim, num_heads, dropout)
        self.sentence_to_video = Attention(dim, num_heads, dropout)

    def forward(
        self,
        frame_queries: Tensor,
        video_queries: Tensor,
        *,
        frame_mask: Tensor,
        words: Tensor,
        static: Tensor,
        motion: Tensor,
        sentence: Tensor,
    ) -> Tensor:
        """Encode the expression.

        Args:
            frame_queries: Q_f, (B, T, N_f, C).
            video_queries: Q_v, (B, N_v, C).
            frame_mask: (B, T) bool, True for real frames.
            words: F_w, (B, K_w, C), projected.
            static: (B, K_w) bool, the words of F_s; False at padding.
            motion: (B, K_w) bool, the words of F_m; False at padding.
            sentence: F_se, (B, C), projected.

        Returns:
            F_me, (B, 1, C).
        """
        batch, frames, per_frame, _ = frame_queries.shape
        flat = frame_queries.flatten(1, 2)  # (B, T * N_f, C)
        flat_mask = frame_mask[:, :, None].expand(batch, frames, per_frame).flatten(1)

        # Eq. (1)
        enhanced_frames = self.static_to_frames(flat, *keys_with_stand_in(words, static, sentence))
        # Eq. (2)
        enhanced_video = self.motion_to_video(
            video_queries, *keys_with_stand_in(words, motion, sentence)
        )
        # Eq. (3): the sentence is a single query, (B, 1, C)
        expression = self.sentence_to_frames(sentence[:, None], enhanced_frames, flat_mask)
        # Eq. (4)
        return self.sentence_to_video(expression, enhanced_video)
