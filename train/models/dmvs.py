"""DMVS: the light head that finds which of the segmenter's objects a sentence means.

head = DMVS()
output = head(inputs)[-1]                  # the last decoder layer
output.logits.sigmoid()                    # (B, N_m) scores, Eq. (9)
output.mask_embeds                         # (B, N_m, C_mask), dotted with F_mask: Eq. (10)
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from train.models.decoder import Memory, MotionQueryDecoder
from train.models.encoder import MotionExpressionEncoder
from train.models.initialisation import INITIALISATIONS
from train.models.text import TextProjection, keys_with_stand_in, max_pooled


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
        sentence: F_se, (B, C_text), the mean of the words.
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
        sources: (B, N_m) int64, the video queries that the motion queries started as, or None if
            they started as something else.
    """

    logits: Tensor
    mask_embeds: Tensor
    sources: Tensor | None


class DMVS(nn.Module):
    """The whole head, equations (1) to (10); 12.70 M parameters by default.

    The last four arguments are the paper's ablations.

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
        encoder: a key of `train.models.encoder.ENCODERS`.
        initialisation: a key of `train.models.initialisation.INITIALISATIONS`.
        decoder_reads: of `train.models.decoder.READS`, what the decoder's queries read.
        sentence: "mean", the cached F_se; or "max", the maximum over the words.
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
        encoder: str = "full",
        initialisation: str = "video",
        decoder_reads: Sequence[str] = ("words", "expression"),
        sentence: str = "mean",
    ) -> None:
        super().__init__()
        self.sentence = sentence
        reads_words = encoder in ("static", "motion", "full") or "words" in decoder_reads
        self.word_projection = TextProjection(text_dim, hidden_dim) if reads_words else None
        self.sentence_projection = TextProjection(text_dim, hidden_dim)
        self.encoder = MotionExpressionEncoder(hidden_dim, num_heads, dropout, kind=encoder)
        self.decoder = MotionQueryDecoder(
            hidden_dim,
            num_layers,
            num_heads,
            feedforward_dim=feedforward_dim,
            reads=decoder_reads,
            dropout=dropout,
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
        # After the others, since it draws its own way.
        self.initialisation = INITIALISATIONS[initialisation](num_motion_queries, hidden_dim)

    def forward(self, inputs: HeadInputs) -> list[HeadOutput]:
        """Decode the motion queries.

        Returns:
            One output per decoder layer, the last one being the prediction.
        """
        pooled = inputs.sentence
        if self.sentence == "max":
            pooled = max_pooled(inputs.words, inputs.word_mask, inputs.sentence)
        sentence = self.sentence_projection(pooled)  # (B, C)
        words = None if self.word_projection is None else self.word_projection(inputs.words)
        expression = self.encoder(
            inputs.frame_queries,
            inputs.video_queries,
            frame_mask=inputs.frame_mask,
            words=words,
            static=inputs.static & inputs.word_mask,
            motion=inputs.motion & inputs.word_mask,
            sentence=sentence,
        )  # (B, 1, C)
        queries, sources = self.initialisation(
            inputs.video_queries, inputs.video_logits, sentence
        )  # (B, N_m, C), (B, N_m)
        keys = {"expression": (expression, None), "video": (inputs.video_queries, None)}
        if words is not None:
            keys["words"] = keys_with_stand_in(words, inputs.word_mask, sentence)
        layers = self.decoder(queries, Memory(keys, inputs.frame_queries, inputs.frame_mask))
        return [
            HeadOutput(self.class_head(decoded).squeeze(-1), self.mask_head(decoded), sources)
            for decoded in layers
        ]
