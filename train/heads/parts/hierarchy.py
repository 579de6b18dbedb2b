"""Hierarchical motion perception: motion words find short and long motions of a frame query.

He and Ding, "Decoupling Static and Hierarchical Motion Perception for Referring Video
Segmentation" (CVPR 2024).
"""

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn import functional

from train.heads.parts.object_tokens import Words


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
        """See `EncoderLayer.forward`; words of motion and the sentence.

        Returns:
            (n, W, N_f, C).
        """
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
    alike = np.nan_to_num((unit[:, :-1] @ unit[:, 1:].mT).cpu().numpy())  # (n, W - 1, N_f, N_f)
    real = real.cpu().numpy()
    order = np.broadcast_to(np.arange(tokens.shape[2]), tokens.shape[:3]).copy()
    for own, likeness, there in zip(order, alike, real, strict=True):
        for t, both in enumerate(there[1:] & there[:-1]):
            step = linear_sum_assignment(likeness[t], maximize=True)[1] if both else own[0]
            own[t + 1] = step[own[t]]
    return torch.from_numpy(order).to(tokens.device)
