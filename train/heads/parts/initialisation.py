"""Where motion queries start, equations (5) to (7): at random, as the sentence, or as objects."""

import torch
from torch import Tensor, nn

Start = tuple[Tensor, Tensor | None]
"""Q_m (B, N_m, C), and which video queries they are (B, N_m) int64, or None if they are none."""


def class_scores(video_logits: Tensor) -> Tensor:
    """S_v: the probability of the likeliest real class; the last class is "no object".

    Args:
        video_logits: (B, N_v, K + 1).

    Returns:
        (B, N_v), from 0 to 1.
    """
    return video_logits.softmax(dim=-1)[..., :-1].amax(dim=-1)


class VideoInitialisation(nn.Module):
    """Q_m = TopK(Q_v, S_v, N_m), Eq. (7): the video queries that look most like objects.

    Args:
        num_queries: N_m; where the segmenter has fewer video queries, all N_v are taken.
    """

    def __init__(self, num_queries: int, dim: int) -> None:
        super().__init__()
        self.num_queries = num_queries

    def forward(self, video_queries: Tensor, video_logits: Tensor, sentence: Tensor) -> Start:
        """Q_v (B, N_v, C), logits (B, N_v, K + 1) and F_se (B, C) to the start, best first."""
        keep = min(self.num_queries, video_queries.shape[1])
        order = class_scores(video_logits).topk(keep, dim=1).indices  # (B, N_m)
        return torch.take_along_dim(video_queries, order[:, :, None], dim=1), order


class RandomInitialisation(nn.Module):
    """Q_m ~ N(0, 1), Eq. (5): drawn once and learned, as the queries of a segmenter are.

    Args:
        num_queries: N_m.
    """

    def __init__(self, num_queries: int, dim: int) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.randn(num_queries, dim))

    def forward(self, video_queries: Tensor, video_logits: Tensor, sentence: Tensor) -> Start:
        """The same start for every video and sentence; see `VideoInitialisation.forward`."""
        return self.embedding.expand(len(sentence), -1, -1), None


class TextInitialisation(RandomInitialisation):
    """Q_m = repeat(F_se, N_m), Eq. (6).

    Equal queries would stay equal through all layers, so each has a learned embedding added, as
    the methods have that start from language.
    """

    def forward(self, video_queries: Tensor, video_logits: Tensor, sentence: Tensor) -> Start:
        """The sentence N_m times; see `VideoInitialisation.forward`."""
        return sentence[:, None] + self.embedding, None


INITIALISATIONS = {
    "video": VideoInitialisation,
    "text": TextInitialisation,
    "random": RandomInitialisation,
}
