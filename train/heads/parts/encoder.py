"""Motion Expression Encoder: what the sentence means in this video, equations (1) to (4)."""

from functools import partial

from torch import Tensor, nn

from train.heads.parts.attention import Attention, read_frames
from train.heads.parts.text import keys_with_stand_in

#: The rows of the paper's Table 4: what the sentence reads, and what has cues put in before.
#: "none" is no encoder, F_me = F_se; "plain" reads Q_f and Q_v as they are; "static" is plain with
#: Q'_f of Eq. (1), "motion" is plain with Q'_v of Eq. (2), "full" has both.
ENCODERS = ("none", "plain", "static", "motion", "full")


class MotionExpressionEncoder(nn.Module):
    """Static words into frame queries, motion words into video queries, then the sentence
    through both. Each equation's softmax product is one learned `Attention`.

    Args:
        kind: one of `ENCODERS`.
    """

    def __init__(
        self, dim: int, num_heads: int, dropout: float = 0.0, *, kind: str = "full"
    ) -> None:
        super().__init__()

        def attention(*kinds: str) -> Attention | None:
            return Attention(dim, num_heads, dropout) if kind in kinds else None

        self.static_to_frames = attention("static", "full")
        self.motion_to_video = attention("motion", "full")
        self.sentence_to_frames = attention(*ENCODERS[1:])
        self.sentence_to_video = attention(*ENCODERS[1:])

    def forward(
        self,
        frame_queries: Tensor,
        video_queries: Tensor,
        *,
        frame_mask: Tensor,
        words: Tensor | None,
        static: Tensor,
        motion: Tensor,
        sentence: Tensor,
    ) -> Tensor:
        """Encode the expression.

        Args:
            frame_queries: Q_f, (B, T, N_f, C).
            video_queries: Q_v, (B, N_v, C).
            frame_mask: (B, T) bool, True for real frames.
            words: F_w, (B, K_w, C), projected; "none" and "plain" do not look at it.
            static: (B, K_w) bool, the words of F_s; False at padding.
            motion: (B, K_w) bool, the words of F_m; False at padding.
            sentence: F_se, (B, C), projected.

        Returns:
            F_me, (B, 1, C).
        """
        expression = sentence[:, None]  # a single query
        if self.sentence_to_frames is None:
            return expression
        enhance_frames = None
        if self.static_to_frames is not None:  # Eq. (1)
            keys, key_mask = keys_with_stand_in(words, static, sentence)
            enhance_frames = partial(self.static_to_frames, keys=keys, key_mask=key_mask)
        if self.motion_to_video is not None:  # Eq. (2)
            motion_keys = keys_with_stand_in(words, motion, sentence)
            video_queries = self.motion_to_video(video_queries, *motion_keys)
        # Eq. (3)
        expression = read_frames(
            self.sentence_to_frames, expression, frame_queries, frame_mask, enhance=enhance_frames
        )
        # Eq. (4)
        return self.sentence_to_video(expression, video_queries)
