"""`dshmp`: DsHmp over cached frame queries, which looks for motion of different lengths.

He and Ding, "Decoupling Static and Hierarchical Motion Perception for Referring Video
Segmentation" (CVPR 2024). `train/README.md` says what a cache leaves of it.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn import functional

from cache_schema.host.cli import InputError
from train import kernels
from train.heads.base import CacheSizes, HeadInputs, HeadOutput
from train.heads.parts.attention import CHUNK_FRAMES, Attention, three_layers
from train.heads.parts.object_tokens import Words
from train.heads.parts.text import keys_with_stand_in
from train.heads.vita_rvos import VitaRVOS
from train.losses.contrast import CONTRAST_DIM, ContrastiveCriterion

MOTION_SHARE = 0.1  # of what the queries read in the motion words at first


class DsHmp(VitaRVOS):
    """`VitaRVOS` with hierarchical motion, fusion and learned queries; 22.4 M parameters.

    Args:
        num_heads, feedforward_dim: see `VitaRVOS`; the fusion has half of both.
        window_size: frames of the encoder's windows, whose motion is looked at together.
        dropout: of the projected text, of the fusion and of the queries' start.
        keywords: see `VitaRVOS`.
    """

    loss = ContrastiveCriterion
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


class Fusion(nn.Module):
    """Attention in both directions over one table of likenesses, added with a learned small scale.

    Args:
        dim: channels C of both sides.
        inner_dim: channels in between.
        num_heads: must divide them.
        dropout: of the attention weights, and of what a sample adds as a whole.
    """

    def __init__(self, dim: int, inner_dim: int, num_heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.frame_norm, self.word_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.frame_query, self.word_key, self.frame_value, self.word_value = (
            nn.Linear(dim, inner_dim) for _ in range(4)
        )
        self.frame_out, self.word_out = nn.Linear(inner_dim, dim), nn.Linear(inner_dim, dim)
        self.frame_scale = nn.Parameter(torch.full((dim,), 1e-4))
        self.word_scale = nn.Parameter(torch.full((dim,), 1e-4))
        self.dropout = nn.Dropout(dropout)
        for layer in self.children():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)

    def forward(
        self, frames: Tensor, frame_mask: Tensor, words: Tensor, word_mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Fuse.

        Args:
            frames: (B, S, C), all frame queries.
            frame_mask: (B, S) bool, at least one True a row.
            words: (B, K, C).
            word_mask: (B, K) bool, at least one True a row.

        Returns:
            Both sides, normalised and with what they have read.
        """
        frames, words = self.frame_norm(frames), self.word_norm(words)
        query, key, frame_value, word_value = (
            layer(side).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for layer, side in (
                (self.frame_query, frames),
                (self.word_key, words),
                (self.frame_value, frames),
                (self.word_value, words),
            )
        )  # (B, heads, S or K, D) each
        logits = (query @ key.mT).float() / query.shape[-1] ** 0.5  # (B, heads, S, K)
        least = torch.finfo(logits.dtype).min
        to_words = logits.masked_fill(~word_mask[:, None, None], least).softmax(dim=3)
        to_frames = logits.masked_fill(~frame_mask[:, None, :, None], least).softmax(dim=2)
        for_frames = self.dropout(to_words).to(query.dtype) @ word_value
        for_words = self.dropout(to_frames).to(query.dtype).mT @ frame_value
        frame_more = self.frame_scale * self.frame_out(for_frames.transpose(1, 2).flatten(2))
        word_more = self.word_scale * self.word_out(for_words.transpose(1, 2).flatten(2))
        return frames + self._drop_path(frame_more), words + self._drop_path(word_more)

    def _drop_path(self, more: Tensor) -> Tensor:
        """Leave out what some samples add (stochastic depth)."""
        return more * self.dropout(more.new_ones(len(more), 1, 1))


class HierarchicalMotion(nn.Module):
    """What is added to every frame query of a window: the motion of its object, as words see it.

    Frame queries are aligned from frame to frame. Then a stage lets the words look for the frames
    of each of them (softmax over *frames*, normalised over words) and averages neighbouring frames,
    until one is left.

    Args:
        dim: channels C.
        window: frames W.
        align: frame query n of a frame is not n in the next.
    """

    def __init__(self, dim: int, window: int, *, align: bool = True) -> None:
        super().__init__()
        self.align = align
        self.query, self.key, self.value = (nn.Linear(dim, dim) for _ in range(3))
        stages = max(1, (window - 1).bit_length())
        self.maps = nn.ModuleList(nn.Linear(dim, dim) for _ in range(stages))
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(stages))
        self.gate = nn.Sequential(
            nn.Linear(dim, dim, bias=False), nn.ReLU(), nn.Linear(dim, dim, bias=False), nn.Tanh()
        )

    def forward(self, tokens: Tensor, real: Tensor, words: Words) -> Tensor:
        """See `EncoderLayer.forward`; words of motion and the sentence. Returns (n, W, N_f, C)."""
        order, tracks = None, tokens
        if self.align:
            order = aligned(tokens.detach(), real)[..., None]  # (n, W, N_f, 1)
            tracks = torch.take_along_dim(tokens, order, dim=2)
        found = self.query(tracks.transpose(1, 2))  # (n, N_f, W, C)
        key, value = self.key(words[0]), self.value(words[0])
        for linear, norm in zip(self.maps, self.norms, strict=True):
            weights = frame_weights(found, key, real, words[1])  # (n, N_f, w, K)
            found = norm(linear(torch.einsum("nfwk,nkc->nfwc", weights, value)) + found)
            found, real = halved(found, real)
        motion = (self.gate(found) * found).transpose(1, 2)  # (n, 1, N_f, C)
        if order is not None:
            motion = torch.take_along_dim(motion, order.argsort(dim=2), dim=2)
        return tokens + motion


def frame_weights(queries: Tensor, keys: Tensor, real: Tensor, word_mask: Tensor) -> Tensor:
    """How much each frame of a track reads each word.

    Args:
        queries: (n, N_f, w, C).
        keys: (n, K, C).
        real: (n, w) bool.
        word_mask: (n, K) bool.

    Returns:
        (n, N_f, w, K): the frames' share of each word, divided by their sum over words.
    """
    logits = torch.einsum("nfwc,nkc->nfwk", queries, keys).float() / queries.shape[-1] ** 0.5
    logits = logits.masked_fill(~real[:, None, :, None], torch.finfo(logits.dtype).min)
    shares = logits.softmax(dim=2) * word_mask[:, None, None]
    return (shares / (shares.sum(dim=3, keepdim=True) + 1e-8)).to(queries.dtype)


def halved(tokens: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    """Averages of two neighbouring frames, of those that are real.

    Args:
        tokens: (n, N_f, w, C).
        real: (n, w) bool.

    Returns:
        The same with half of w, rounded up.
    """
    odd = tokens.shape[2] % 2
    tokens = functional.pad(tokens, (0, 0, 0, odd)).unflatten(2, (-1, 2))
    real = functional.pad(real, (0, odd)).unflatten(1, (-1, 2))  # (n, w / 2, 2)
    shares = real / real.sum(dim=2, keepdim=True).clamp_min(1)
    return (tokens * shares[:, None, ..., None].to(tokens.dtype)).sum(dim=3), real.any(dim=2)


@torch.no_grad()
def aligned(tokens: Tensor, real: Tensor) -> Tensor:
    """Which frame query goes on which in the next frame: Hungarian on the cosine.

    Args:
        tokens: (n, W, N_f, C).
        real: (n, W) bool; into and out of padding they go on by their number.

    Returns:
        (n, W, N_f) int64: of each frame the query that the first frame's query n has become.
    """
    unit = functional.normalize(tokens.float(), dim=-1)
    likeness = (unit[:, :-1] @ unit[:, 1:].mT).nan_to_num()  # (n, W - 1, N_f, N_f)
    if kernels.available(tokens.device):
        same = torch.eye(tokens.shape[2], device=tokens.device)
        both = (real[:, 1:] & real[:, :-1])[..., None, None]
        steps = kernels.assign_all(-torch.where(both, likeness, same))[:, :, 1]  # (n, W - 1, N_f)
        order = [torch.arange(tokens.shape[2], device=tokens.device).expand(len(tokens), -1)]
        for step in steps.unbind(1):
            order.append(step.gather(1, order[-1]))
        return torch.stack(order, dim=1)
    alike = likeness.cpu().numpy()
    real = real.cpu().numpy()
    order = np.broadcast_to(np.arange(tokens.shape[2]), tokens.shape[:3]).copy()
    for own, likeness, there in zip(order, alike, real, strict=True):
        for t, both in enumerate(there[1:] & there[:-1]):
            step = linear_sum_assignment(likeness[t], maximize=True)[1] if both else own[0]
            own[t + 1] = step[own[t]]
    return torch.from_numpy(order).to(tokens.device)
