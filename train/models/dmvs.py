"""DMVS: the light head that finds which of the segmenter's objects a sentence means.

head = DMVS()
output = head(inputs)[-1]                  # the last decoder layer
output.logits.sigmoid()                    # (B, N_m) scores, Eq. (9)
output.mask_embeds                         # (B, N_m, C_mask), dotted with F_mask: Eq. (10)
"""

from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from train.models.decoder import MotionQueryDecoder
from train.models.encoder import MotionExpressionEncoder
from train.models.initialisation import video_initialisation
from train.models.text import TextProjection, keys_with_stand_in


@dataclass
class HeadInputs:
    """What the head reads, padded to one size over the batch; floats are float32.

    Attributes:
        frame_queries: Q_f, (B, T, N_f, C).
        frame_mask: (B, T) bool, True for real frames, at least one a row.
        video_queries: Q_v, (B, N_v, C).
        video_logits: (B, N_v, K + 1).
        words: (B, K_w, C_text), the text encoder's.
        word_mask: (B, K_w) bool, True for real words.
        static: (B, K_w) bool, static cues.
        motion: (B, K_w) bool, motion cues.
        sentence: (B, C_text).
    """

    frame_queries: Tensor
    frame_mask: Tensor
    video_queries: Tensor
    video_logits: Tensor
    words: Tensor
    word_mask: Tensor
    static: Tensor
    motion: Tensor
    sentence: Tensor

    def to(self, device: torch.device | str) -> "HeadInputs":
        """The same inputs on another device."""
        return HeadInputs(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})


@dataclass
class HeadOutput:
    """What one decoder layer says.

    Attributes:
        logits: (B, N_m); the sigmoid is the score S of Eq. (9).
        mask_embeds: (B, N_m, C_mask); the dot product with F_mask is the mask logit of Eq. (10).
        sources: (B, N_m) int64, the video queries that the motion queries started as.
    """

    logits: Tensor
    mask_embeds: Tensor
    sources: Tensor


class DMVS(nn.Module):
    """The whole head, equations (1) to (4) and (7) to (10); 12.70 M parameters by default.

    The queries that enter the decoder are not supervised: they are the segmenter's own and know
    nothing of the sentence, so a class loss on them could only teach the class head to ignore it.

    Args:
        hidden_dim: channels C of queries, the segmenter's.
        text_dim: channels C_text of words and sentence.
        mask_dim: channels C_mask of the mask features.
        num_motion_queries: N_m.
        num_layers: decoder layers.
        num_heads: attention heads everywhere.
        feedforward_dim: width of the decoder's feed-forward blocks.
        dropout: dropout rate of encoder and decoder.
    """

    def __init__(
        self,
        *,
        hidden_dim: int = 256,
        text_dim: int = 768,
        mask_dim: int = 256,
        num_motion_queries: int = 20,
        num_layers: int = 6,
        num_heads: int = 8,
        feedforward_dim: int = 2048,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.num_motion_queries = num_motion_queries
        self.word_projection = TextProjection(text_dim, hidden_dim)
        self.sentence_projection = TextProjection(text_dim, hidden_dim)
        self.encoder = MotionExpressionEncoder(hidden_dim, num_heads, dropout)
        self.decoder = MotionQueryDecoder(
            hidden_dim, num_layers, num_heads, feedforward_dim=feedforward_dim, dropout=dropout
        )
        self.class_head = nn.Linear(hidden_dim, 1)
        self.mask_head = nn.Sequential(
            nn.Linear(hidden_dim, hidden_dim),
            nn.ReLU(),
            nn.Linear(hidden_dim, hidden_dim),
            nn.ReLU(),
            nn.Linear(hidden_dim, mask_dim),
        )
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(self, inputs: HeadInputs) -> list[HeadOutput]:
        """Decode the motion queries.

        Returns:
            One output per decoder layer, the last one being the prediction.
        """
        words = self.word_projection(inputs.words)  # (B, K_w, C)
        sentence = self.sentence_projection(inputs.sentence)  # (B, C)
        expression = self.encoder(
            inputs.frame_queries,
            inputs.video_queries,
            frame_mask=inputs.frame_mask,
            words=words,
            static=inputs.static & inputs.word_mask,
            motion=inputs.motion & inputs.word_mask,
            sentence=sentence,
        )  # (B, 1, C)
        queries, sources = video_initialisation(
            inputs.video_queries, inputs.video_logits, self.num_motion_queries
        )  # (B, N_m, C), (B, N_m)
        keys, key_mask = keys_with_stand_in(words, inputs.word_mask, sentence)
        layers = self.decoder(queries, keys, word_mask=key_mask, expression=expression)
        return [
            HeadOutput(self.class_head(decoded).squeeze(-1), self.mask_head(decoded), sources)
            for decoded in layers
        ]
