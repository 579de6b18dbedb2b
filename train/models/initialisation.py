"""Where motion queries start: the video queries that look most like objects, equation (7)."""

import torch
from torch import Tensor


def class_scores(video_logits: Tensor) -> Tensor:
    """S_v: the probability of the likeliest real class; the last class is "no object".

    Args:
        video_logits: (B, N_v, K + 1).

    Returns:
        (B, N_v), from 0 to 1.
    """
    return video_logits.softmax(dim=-1)[..., :-1].amax(dim=-1)


def video_initialisation(
    video_queries: Tensor, video_logits: Tensor, num_queries: int
) -> tuple[Tensor, Tensor]:
    """Q_m = TopK(Q_v, S_v, N_m), Eq. (7), best first.

    Args:
        video_queries: Q_v, (B, N_v, C).
        video_logits: (B, N_v, K + 1).
        num_queries: N_m; where the segmenter has fewer video queries, all N_v are taken.

    Returns:
        The queries, (B, min(N_m, N_v), C), and which video queries they are, (B, min(N_m, N_v)).
    """
    keep = min(num_queries, video_queries.shape[1])
    order = class_scores(video_logits).topk(keep, dim=1).indices  # (B, N_m)
    return torch.take_along_dim(video_queries, order[:, :, None], dim=1), order
