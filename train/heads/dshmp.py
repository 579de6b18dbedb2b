"""`dshmp`: DsHmp over cached frame queries, which looks for motion of different lengths.

He and Ding, "Decoupling Static and Hierarchical Motion Perception for Referring Video
Segmentation" (CVPR 2024). `train/README.md` says what a cache leaves of it.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from cache_schema.host.cli import InputError
from train.heads.base import CacheSizes, HeadInputs, HeadOutput
from train.heads.parts.attention import Attention
from train.heads.parts.frames import CHUNK_FRAMES
from train.heads.parts.fusion import Fusion
from train.heads.parts.hierarchy import HierarchicalMotion
from train.heads.parts.text import keys_with_stand_in
from train.heads.vita_rvos import VitaRVOS, three_layers
from train.losses.contrast import CONTRAST_DIM, ContrastiveCriterion

MOTION_SHARE = 0.1  # of what the queries read in the motion words at first


class DsHmp(VitaRVOS):
    """`VitaRVOS` with hierarchical motion, fusion and learned queries; 22.4 M parameters.

    Args:
        sizes: of the caches.
        num_heads, feedforward_dim: see `VitaRVOS`; the fusion has half of both.
        window_size: frames of the encoder's windows, whose motion is looked at together.
        dropout: of the projected text, of the fusion and of the queries' start.
        keywords: see `VitaRVOS`.
    """

    loss = ContrastiveCriterion
    recorded = False  # frame queries are aligned on the host
    reads_words = True

    def __init__(
        self,
        sizes: CacheSizes,
        *,
        num_heads: int = 8,
        feedforward_dim: int = 2048,
        window_size: int = 8,
        dropout: float = 0.1,
        **keywords: Any,
    ) -> None:
        super().__init__(
            sizes,
            num_heads=num_heads,
            feedforward_dim=feedforward_dim,
            window_size=window_size,
            dropout=dropout,
            **keywords,
        )
        queries, dim = self.query_position.weight.shape
        for layer in self.encoder.layers:
            layer.between = HierarchicalMotion(dim, window_size, align=not sizes.identity)
        inner, heads = fusion_sizes(feedforward_dim, num_heads)
        self.fusion = nn.ModuleList(Fusion(dim, inner, heads, dropout) for _ in self.decoder)
        self.queries = nn.Embedding(queries, dim)
        self.to_motion = Attention(dim, num_heads, dropout)
        self.contrast = three_layers(dim, CONTRAST_DIM)

    @classmethod
    def check(cls, model: Mapping[str, Any], loss: Mapping[str, Any]) -> None:
        """See `Head.check`."""
        super().check(model, loss)
        inner, heads = fusion_sizes(model["feedforward_dim"], model["num_heads"])
        if inner == 0 or inner % heads:
            raise InputError(
                f"config key model.feedforward_dim is {model['feedforward_dim']}: half of it, "
                f"{inner}, has to be a multiple of {heads}, half of model.num_heads"
            )

    def forward(self, inputs: HeadInputs) -> list[HeadOutput]:
        """Decode learned queries over frame queries and words.

        Returns:
            One output a decoder layer; in training the last has ``more``, see the criterion.
        """
        count, frames = inputs.frame_mask.shape
        if count > 1 and frames > CHUNK_FRAMES and not torch.is_grad_enabled():
            return self._one_by_one(inputs)
        sentence = self.dropout(self.text(inputs.sentence))  # (B, C)
        words = self.dropout(self.text(inputs.words))  # (B, K_w, C)
        # The sentence is one more word of motion.
        motion = functional.pad(inputs.motion & inputs.word_mask, (0, 1), value=True)
        motion_words = torch.cat([words, sentence[:, None]], dim=1), motion
        words, word_mask = keys_with_stand_in(words, inputs.word_mask, sentence)
        encoded = self.encoder(
            self.frame_projection(inputs.frame_queries), inputs.frame_mask, motion_words
        )
        mask = inputs.frame_mask[:, :, None].expand(encoded.shape[:3]).flatten(1)  # (B, T * N_f)
        queries = self.queries.weight.expand(count, -1, -1)  # (B, N_m, C)
        queries = queries + MOTION_SHARE * self.to_motion(queries, *motion_words)
        fused, layers = encoded, []
        for fuse, layer in zip(self.fusion, self.decoder, strict=True):
            flat, words = fuse(fused.flatten(1, 2), mask, words, word_mask)
            fused = flat.view_as(fused)
            queries = layer(
                queries,
                fused,
                inputs.frame_mask,
                position=self.query_position.weight,
                frame_position=self.frame_position.weight,
                words=(words, word_mask),
            )
            layers.append(self.norm(queries))
        found = self.outputs(layers, layers, encoded)
        if self.training:
            found[-1].more["contrast"] = self.contrast(layers[-1])
        return found

    def _one_by_one(self, inputs: HeadInputs) -> list[HeadOutput]:
        """Each expression for itself: all frame queries are encoded anew for its words."""
        every = [
            self(HeadInputs.of({n: own[b : b + 1] for n, own in inputs.present().items()}))
            for b in range(len(inputs.sentence))
        ]
        return [
            HeadOutput(
                torch.cat([own.logits for own in layer]),
                torch.cat([own.mask_embeds for own in layer]),
            )
            for layer in zip(*every, strict=True)
        ]


def fusion_sizes(feedforward_dim: int, num_heads: int) -> tuple[int, int]:
    """Channels and heads of the fusion."""
    return feedforward_dim // 2, max(1, num_heads // 2)
