"""VITA's own training loss: the set loss over its classes, and the similarity of embeddings."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from train.losses.criterion import Average, SetCriterion
from train.losses.points import RandomPoints
from train.masks.logits import MaskFeatures
from train.masks.supervision import Matches, Supervision
from train.masks.targets import Targets


@dataclass
class Similarity:
    """Embeddings that should agree where they show the same object.

    Attributes:
        frame_embeds: (B, T, N_f, C), of the frame queries.
        frame_matches: B * T matches of the frame level, video by video, each with the targets
            visible in that frame.
        frame_ids: the object ids of those targets, B * T tensors.
        video_embeds: (B, N_v, C), of the video queries of the last layer.
        video_ids: the object id of each target of each video, B tensors (M,).
    """

    frame_embeds: Tensor
    frame_matches: Matches
    frame_ids: Sequence[Tensor]
    video_embeds: Tensor
    video_ids: Sequence[Tensor]


def vita_losses(
    loss: SetCriterion,
    layers: Sequence[tuple[Tensor, Tensor]],
    maps: Sequence[MaskFeatures],
    targets: Sequence[Targets],
    *,
    similarity: Similarity | None = None,
    similarity_weight: float = 0.5,
    random: RandomPoints | None = None,
) -> dict[str, Tensor]:
    """What VITA's head is trained with; ``B`` here counts (layer, video) pairs.

    The reference feeds the last L layers of its frame decoder through the head at once. To do
    the same, flatten L into B and repeat `maps` and `targets` L times.

    Args:
        loss: with `Softmax` classes and VITA's weights, which are the defaults.
        layers: logits (B, N_v, K + 1) and mask embeddings (B, N_v, C) of each decoder layer.
        maps: B mask features.
        targets: B targets with their class labels.
        similarity: embeddings to compare, on the matches of the last layer.
        similarity_weight: of that term.
        random: source of random points.

    Returns:
        The weighted terms of `SetCriterion.compare`, and ``loss_sim`` if asked for.

    Raises:
        Diverged: a prediction is not finite.
    """
    losses, matches = loss.compare(layers, Supervision(maps, targets), random=random)
    if similarity is not None:
        losses["loss_sim"] = similarity_weight * similarity_loss(similarity, matches)
    return losses


def similarity_loss(
    similarity: Similarity, video_matches: Matches, average: Average | None = None
) -> Tensor:
    """Binary cross-entropy of "same object" over all pairs of matched embeddings of a video.

    Args:
        similarity: what to compare.
        video_matches: the matches of the video queries, B of them.
        average: see `SetCriterion.compare`.

    Returns:
        The mean over pairs of the same video, ().
    """
    frames = similarity.frame_embeds.shape[1]
    embeds, ids, videos = [], [], []
    sources = [
        (similarity.frame_embeds.flatten(0, 1), similarity.frame_matches, similarity.frame_ids),
        (similarity.video_embeds, video_matches, similarity.video_ids),
    ]
    for per_video, (rows, matches, own_ids) in zip((frames, 1), sources, strict=True):
        for row, match in enumerate(matches):
            embeds.append(rows[row][match.queries.to(rows.device)])
            ids.append(own_ids[row].cpu()[match.targets])
            videos.append(torch.full_like(match.targets, row // per_video))
    embed, obj, video = torch.cat(embeds), torch.cat(ids), torch.cat(videos)  # (R, C), (R,), (R,)
    same_video = (video[:, None] == video[None]).to(embed.device)
    same_object = (obj[:, None] == obj[None]).to(embed.device)
    loss = F.binary_cross_entropy_with_logits(
        embed @ embed.T, same_object.float(), reduction="none"
    )
    count = same_video.sum()[None].float()
    if average is not None:
        count = average(count)
    return (loss * same_video).sum() / (count[0] + 1e-6)
