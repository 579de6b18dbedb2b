"""`vita_rvos`: LMPM over cached frame queries, VITA's own head with queries that are the sentence.

Ding et al., "MeViS: A Large-scale Benchmark for Video Segmentation with Motion Expressions" (ICCV
2023). `train/README.md` says what a cache leaves of it.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from train.heads.base import CacheSizes, Head, HeadInputs, HeadOutput
from train.heads.parts.attention import check_heads, three_layers
from train.heads.parts.object_tokens import ObjectDecoderLayer, ObjectEncoder
from train.heads.parts.text import TextProjection
from train.losses.vita import SimilarityCriterion


class VitaRVOS(Head):
    """Language queries over encoded frame queries; 13.2 M parameters by default.

    The reference has two logits a query, "meant" and "nothing", softmax and cross-entropy. Their
    difference is the one logit of this house: its sigmoid is that softmax, and the binary
    cross-entropy that cross-entropy, with the same weights.

    Args:
        hidden_dim: the head's channels C.
        num_motion_queries: N_m.
        num_layers: decoder layers.
        encoder_layers: of the Object Encoder, which is trained.
        num_heads: attention heads everywhere.
        feedforward_dim: width of the feed-forward blocks.
        window_size: frames of the encoder's windows.
        dropout: of the projected text.
    """

    reads = ("frame_queries",)
    loss = SimilarityCriterion
    # By the decoder, which then classifies without the sentence.
    reads_words: ClassVar[bool] = False

    def __init__(
        self,
        sizes: CacheSizes,
        *,
        hidden_dim: int = 256,
        num_motion_queries: int = 10,
        num_layers: int = 3,
        encoder_layers: int = 6,
        num_heads: int = 8,
        feedforward_dim: int = 2048,
        window_size: int = 6,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.text = TextProjection(sizes.text_dim, hidden_dim)
        self.dropout = nn.Dropout(dropout)
        self.frame_projection = nn.Linear(sizes.query_dim, hidden_dim)
        self.encoder = ObjectEncoder(
            hidden_dim,
            encoder_layers,
            num_heads,
            feedforward_dim=feedforward_dim,
            window=window_size,
        )
        self.decoder = nn.ModuleList(
            ObjectDecoderLayer(hidden_dim, num_heads, feedforward_dim, reads_words=self.reads_words)
            for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(hidden_dim)
        for parameter in (*self.encoder.parameters(), *self.decoder.parameters()):
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
        self.query_position = nn.Embedding(num_motion_queries, hidden_dim)
        self.frame_position = nn.Embedding(sizes.num_frame_queries, hidden_dim)
        self.class_head = nn.Linear(hidden_dim if self.reads_words else 2 * hidden_dim, 2)
        self.mask_head = three_layers(hidden_dim, sizes.mask_dim)
        self.frame_embed, self.query_embed = (nn.Linear(hidden_dim, hidden_dim) for _ in range(2))

    @classmethod
    def check(cls, model: Mapping[str, Any], loss: Mapping[str, Any]) -> None:
        """See `Head.check`."""
        check_heads(model)

    def forward(self, inputs: HeadInputs) -> list[HeadOutput]:
        """Decode the sentence over the frame queries.

        Returns:
            One output a decoder layer; in training the last has ``more``, see the criterion.
        """
        sentence = self.dropout(self.text(inputs.sentence))[:, None]  # (B, 1, C)
        frame_queries, frame_mask = inputs.frame_queries, inputs.frame_mask
        if len(frame_queries) > 1 and frame_queries.stride(0) == 0:  # one for many expressions
            frame_queries, frame_mask = frame_queries[:1], frame_mask[:1]
        encoded = self.encoder(self.frame_projection(frame_queries), frame_mask)
        encoded = encoded.expand(len(sentence), -1, -1, -1)  # (B, T, N_f, C)
        position = self.query_position.weight
        queries = sentence.expand(-1, len(position), -1)  # (B, N_m, C)
        layers = []
        for layer in self.decoder:
            queries = layer(
                queries,
                encoded,
                inputs.frame_mask,
                position=position,
                frame_position=self.frame_position.weight,
            )
            layers.append(self.norm(queries))
        both = [torch.cat([own, sentence.expand_as(own)], dim=-1) for own in layers]
        return self.outputs(layers, both, encoded)

    def outputs(
        self, layers: Sequence[Tensor], classified: Sequence[Tensor], encoded: Tensor
    ) -> list[HeadOutput]:
        """What the head says of decoded queries (B, N_m, C), and what it classifies for them."""
        found = []
        for queries, own in zip(layers, classified, strict=True):
            meant, nothing = self.class_head(own).unbind(dim=-1)
            found.append(HeadOutput(meant - nothing, self.mask_head(queries)))
        if self.training:
            found[-1].more = {
                "frame_embeds": self.frame_embed(encoded),
                "query_embeds": self.query_embed(layers[-1]),
            }
        return found
