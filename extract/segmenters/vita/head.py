"""VITA's video head: Object Encoder and Object Decoder over the frame queries of a clip.

Heo et al., "VITA: Video Instance Segmentation via Object Token Association" (NeurIPS 2022),
sections 3.2 and 3.3. Nothing in it knows the order of frames beyond which window they fall into.

The names of modules are those of the published weights (``vita_module.*``).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from extract.segmenters.base import VideoOutput
from extract.segmenters.vita.config import VITAConfig
from extract.segmenters.vita.tokens import multihead

#: Windows that go through a layer together: a long video then takes no more memory than a short
#: one, its queries aside.
GROUP = 8


@dataclass
class LayerOutput(VideoOutput):
    """What the Object Decoder says of a batch of clips, after one of its layers and its norm.

    Attributes:
        sim_frame: (B, T, N_f, C) embedding of the encoded frame queries for the similarity loss,
            or None unless asked for.
        sim_clip: (B, N_v, C), the same of the video queries.
    """

    sim_frame: Tensor | None = None
    sim_clip: Tensor | None = None


class VITAHead(nn.Module):
    """Object Encoder, Object Decoder and the projection to VITA's mask features.

    An ordinary module that can be trained on its own. As in the reference, windows shift in every
    second encoder layer in evaluation mode only.
    """

    def __init__(self, config: VITAConfig) -> None:
        super().__init__()
        channels, heads, width = config.hidden_dim, config.num_heads, config.video_feedforward_dim
        encoder, decoder = range(config.encoder_layers), range(config.video_decoder_layers)
        self.window_size = config.window_size

        self.vita_mask_features = nn.Conv2d(channels, config.mask_dim, kernel_size=1)
        self.input_proj_dec = nn.Linear(channels, channels)
        self.enc_self_attn = nn.ModuleList(SelfAttention(channels, heads) for _ in encoder)
        self.enc_ffn = nn.ModuleList(FeedForward(channels, width) for _ in encoder)

        self.query_feat = nn.Embedding(config.num_video_queries, channels)
        self.query_embed = nn.Embedding(config.num_video_queries, channels)
        self.fq_pos = nn.Embedding(config.num_frame_queries, channels)
        self.transformer_cross_attention_layers = nn.ModuleList(
            CrossAttention(channels, heads) for _ in decoder
        )
        self.transformer_self_attention_layers = nn.ModuleList(
            SelfAttention(channels, heads) for _ in decoder
        )
        self.transformer_ffn_layers = nn.ModuleList(FeedForward(channels, width) for _ in decoder)
        self.decoder_norm = nn.LayerNorm(channels)

        self.class_embed = nn.Linear(channels, config.num_classes + 1)
        self.mask_embed = MLP(channels, channels, config.mask_dim, num_layers=3)
        self.sim_embed_frame = nn.Linear(channels, channels)
        self.sim_embed_clip = nn.Linear(channels, channels)
        self._initialise()

    def _initialise(self) -> None:
        """Xavier in the attention and feed-forward layers, as the reference starts its training."""
        layers = [
            self.enc_self_attn,
            self.enc_ffn,
            self.transformer_cross_attention_layers,
            self.transformer_self_attention_layers,
            self.transformer_ffn_layers,
            self.input_proj_dec,
        ]
        for parameter in (p for layer in layers for p in layer.parameters() if p.dim() > 1):
            nn.init.xavier_uniform_(parameter)

    def forward(
        self, frame_queries: Tensor, all_layers: bool = False, similarity: bool = False
    ) -> LayerOutput | list[LayerOutput]:
        """Video queries, classes and mask embeddings of a batch of clips.

        Args:
            frame_queries: (B, T, N_f, C), of the last frame-level decoder layer after its norm.
            all_layers: return one output per decoder layer, first to last, for deep supervision.
            similarity: fill ``sim_frame`` and ``sim_clip``, which only the similarity loss needs.

        Returns:
            The output of the last decoder layer, or the list of all.
        """
        encoded = self.encode(self.input_proj_dec(frame_queries))
        sim_frame = self.sim_embed_frame(encoded) if similarity else None
        layers = self.decode(encoded)
        outputs = [
            LayerOutput(
                video_queries=queries,
                logits=self.class_embed(queries),
                mask_embeds=self.mask_embed(queries),
                sim_frame=sim_frame,
                sim_clip=self.sim_embed_clip(queries) if similarity else None,
            )
            for queries in (layers if all_layers else layers[-1:])
        ]
        return outputs if all_layers else outputs[0]

    def encode(self, queries: Tensor) -> Tensor:
        """Object Encoder: windowed self-attention over projected frame queries.

        Args:
            queries: (B, T, N_f, C).

        Returns:
            (B, T, N_f, C).
        """
        window = self.window_size
        layers = zip(self.enc_self_attn, self.enc_ffn, strict=True)
        for index, (attention, ffn) in enumerate(layers):
            shifted = window > 0 and index % 2 == 1 and not self.training
            first = window - math.ceil(window / 2) if shifted else 0
            parts = _split(queries, first, window)
            queries = torch.cat([ffn(_within(attention, part, window)) for part in parts], 1)
        return queries

    def decode(self, encoded: Tensor) -> list[Tensor]:
        """Object Decoder: video queries attend to the encoded frame queries of all frames.

        Args:
            encoded: (B, T, N_f, C).

        Returns:
            (B, N_v, C) after the norm, one for each layer.
        """
        batch = len(encoded)
        # (N_f, C) is broadcast over frames: a key's place is its frame query's index, not its time
        keys = (encoded + self.fq_pos.weight).flatten(1, 2)  # (B, T*N_f, C)
        values = encoded.flatten(1, 2)  # (B, T*N_f, C)
        position = self.query_embed.weight.expand(batch, -1, -1)  # (B, N_v, C)
        queries = self.query_feat.weight.expand(batch, -1, -1)  # (B, N_v, C)
        layers = []
        for cross, attention, ffn in zip(
            self.transformer_cross_attention_layers,
            self.transformer_self_attention_layers,
            self.transformer_ffn_layers,
            strict=True,
        ):
            queries = cross(queries, keys, values, position=position)
            queries = attention(queries, position=position)
            queries = ffn(queries)
            layers.append(self.decoder_norm(queries))
        return layers


def _split(queries: Tensor, first: int, window: int) -> list[Tensor]:
    """Cut (B, T, N_f, C) in time: `first` frames, groups of whole windows, and what is left.

    The reference pads to whole windows and rolls by half a window with a mask that keeps padding
    out and the two ends of the video apart. Its windows are then exactly these, and cutting
    the frames needs neither padding nor mask.
    """
    if window == 0:
        return [queries]
    frames = queries.shape[1]
    first = min(first, frames)
    whole = (frames - first) // window * window
    group = GROUP * window
    groups = [min(group, whole - start) for start in range(0, whole, group)]
    parts = queries.split([first, *groups, frames - first - whole], dim=1)
    return [part for part in parts if part.shape[1]]


def _within(attention: nn.Module, part: Tensor, window: int) -> Tensor:
    """Attend inside each window of (B, t, N_f, C); t below a window is one window of its own."""
    batch, frames, _, channels = part.shape
    size = min(window, frames) or frames
    tokens = part.reshape(batch * (frames // size), -1, channels)  # (B*windows, size*N_f, C)
    return attention(tokens).view_as(part)  # (B, t, N_f, C)


class SelfAttention(nn.Module):
    """Self-attention with residual and norm after it; positions are added to queries and keys."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(channels, heads, batch_first=True)
        self.norm = nn.LayerNorm(channels)

    def forward(self, queries: Tensor, position: Tensor | None = None) -> Tensor:
        """(B, N, C) -> (B, N, C)."""
        placed = queries if position is None else queries + position
        attended = multihead(self.self_attn, placed, placed, queries)
        return self.norm(queries + attended)


class CrossAttention(nn.Module):
    """Cross-attention with residual and norm after it; keys come with their positions added."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.multihead_attn = nn.MultiheadAttention(channels, heads, batch_first=True)
        self.norm = nn.LayerNorm(channels)

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor, *, position: Tensor) -> Tensor:
        """(B, N, C) queries, (B, M, C) keys and values -> (B, N, C)."""
        attended = multihead(self.multihead_attn, queries + position, keys, values)
        return self.norm(queries + attended)


class FeedForward(nn.Module):
    """Two linear layers with a ReLU between, residual and norm after them."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(channels, width)
        self.linear2 = nn.Linear(width, channels)
        self.norm = nn.LayerNorm(channels)

    def forward(self, queries: Tensor) -> Tensor:
        """(..., C) -> (..., C)."""
        return self.norm(queries + self.linear2(F.relu(self.linear1(queries), inplace=True)))


class MLP(nn.Module):
    """Linear layers with ReLU between them."""

    def __init__(self, inputs: int, hidden: int, outputs: int, *, num_layers: int) -> None:
        super().__init__()
        sizes = [inputs, *[hidden] * (num_layers - 1), outputs]
        self.layers = nn.ModuleList(map(nn.Linear, sizes[:-1], sizes[1:]))

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) -> (..., outputs)."""
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x)
