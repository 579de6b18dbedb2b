"""Replay: masks of what heads said of a video, frame by frame.

A head that draws said mask embeddings, one that selects said which of the segmenter's video queries
it means: their masks come from the segmenter's embeddings or, in a light cache, as it stored them.

Eq. (10), M = F_mask . H_m(Q'_m), is computed in the coded space of the cache; then VITA's way to
pixels: bilinear to the padded size, crop to the resized one, bilinear to the original one, logit
above 0. Only one frame is held at a time, so memory does not grow with the length of the video.
Shapes and order of operations are those of stage one, so VITA's masks come out to the same bits.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from cache_schema.host.cli import InputError
from cache_schema.reader import Video
from cache_schema.records import Geometry
from train.masks.logits import mask_logits
from train.run_lengths import decode

CHUNK = 16  # of VITA's masks that are brought to the original size at once


def keep(scores: np.ndarray, *, rule: str, sigma: float, at_most: int | None = None) -> np.ndarray:
    """Which queries make the final mask (section 3.3 of the paper).

    Args:
        scores: (N_m,) probabilities.
        rule: ``threshold`` keeps every query above sigma (MeViS: several objects or none);
            ``top1`` the best one (data sets with one object an expression). Any other is a
            `ValueError`.
        at_most: how many of those above sigma, the best ones; None keeps all.

    Returns:
        Indices of the kept queries, ascending.
    """
    if rule == "top1":
        return np.array([scores.argmax()])
    if rule != "threshold":
        raise ValueError(f"rule is {rule!r}, neither threshold nor top1")
    kept = np.flatnonzero(scores > sigma)
    best = np.argsort(-scores[kept], kind="stable")[:at_most]  # the first of equals
    return kept[np.sort(best)]


def to_original(logits: Tensor, geometry: Geometry) -> Tensor:
    """Mask logits (N, h, w) to the video's original size: (N, H, W)."""
    g = geometry
    maps = _resize(logits[:, None], (g.padded_height, g.padded_width))  # (N, 1, ., .)
    maps = _resize(maps[..., : g.resized_height, : g.resized_width], (g.height, g.width))
    return maps[:, 0]


def _resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    if maps.shape[-2:] == size:
        return maps
    return functional.interpolate(maps, size=size, mode="bilinear", align_corners=False)


def _read_frame(video: Video, t: int, *, device: torch.device | str) -> dict[str, Tensor]:
    """The coded features of frame t, (1, ...) each, on the device and ready for any product."""
    stored = {n: torch.from_numpy(a).to(device) for n, a in video.mask_features([t]).items()}
    return {**stored, "values": stored["values"].float()}


def replay(
    video: Video, groups: Sequence[np.ndarray], *, device: torch.device | str = "cpu"
) -> Iterator[np.ndarray]:
    """Final masks of several expressions, one frame after the other.

    Args:
        groups: for each of G expressions its kept queries: mask embeddings (N, C) as a head says
            them, or the numbers (N,) of video queries, whose own masks are taken. None of them is
            an empty mask.

    Yields:
        (G, H, W) bool, the union over each expression's queries; T times.
    """
    for (masks,) in replay_rounds(video, [groups], device=device):
        yield masks


def replay_rounds(
    video: Video, rounds: Sequence[Sequence[np.ndarray]], *, device: torch.device | str = "cpu"
) -> Iterator[Iterator[np.ndarray]]:
    """As `replay`, for several rounds of groups that share the reading of each frame.

    A round's masks are made when they are asked for, so that memory does not grow with the rounds.

    Yields:
        For each frame an iterator over the rounds' masks, each (G, H, W) bool, the same to the bit
        as without the other rounds.
    """

    def masks(groups: Iterator[Tensor | None], count: int) -> np.ndarray:
        made = np.zeros((count, video.geometry.height, video.geometry.width), bool)
        for mask, logits in zip(made, groups, strict=True):
            if logits is not None:
                mask[:] = (logits > 0).cpu().numpy()
        return made

    counts = [len(groups) for groups in rounds]
    for frame in _highest_logits(video, rounds, device=device):
        yield map(masks, frame, counts)


def probabilities(
    video: Video, groups: Sequence[np.ndarray], *, device: torch.device | str = "cpu"
) -> Iterator[np.ndarray]:
    """As `replay`, but how sure the masks are: (G, H, W) float32, 0 without any query."""
    for (frame,) in _highest_logits(video, [groups], device=device):
        maps = np.zeros((len(groups), video.geometry.height, video.geometry.width), np.float32)
        for found, logits in zip(maps, frame, strict=True):
            if logits is not None:
                found[:] = logits.sigmoid().cpu().numpy()
        yield maps


def _highest_logits(
    video: Video, rounds: Sequence[Sequence[np.ndarray]], *, device: torch.device | str
) -> Iterator[Iterator[Iterator[Tensor | None]]]:
    """For each frame, round and group the highest logit of its queries, (H, W); None without any.

    The union of masks is where it is above 0. There is one product a round: with other rows in it
    a product may round differently.
    """

    def of_round(
        stored: Mapping[str, Tensor], groups: Sequence[np.ndarray], embeds: Tensor | None
    ) -> Iterator[Tensor | None]:
        if embeds is None:
            return iter([None] * len(groups))
        logits = mask_logits(stored, embeds, codec=video.codec)[0].split([len(g) for g in groups])
        return (to_original(part, video.geometry).amax(0) if len(part) else None for part in logits)

    if video.codec.dtype is None:  # a light cache
        kept = [group for groups in rounds for group in groups if len(group)]
        if any(group.ndim == 2 for group in kept):
            raise InputError(
                f"video {video.id!r}: the cache is light, and these predictions draw masks with "
                "the mask features that it does not hold; give the full cache"
            )
        masks = StoredMasks(video, {int(n) for group in kept for n in group})
        for t in range(video.num_frames):
            yield ((masks.logits(t, group) for group in groups) for groups in rounds)
        return
    embeds = [_joined_embeds(video, groups, device) for groups in rounds]
    needed = any(rows is not None for rows in embeds)
    for t in range(video.num_frames):
        stored = _read_frame(video, t, device=device) if needed else {}
        yield (
            of_round(stored, groups, rows if rows is None or rows.ndim == 2 else rows[t])
            for groups, rows in zip(rounds, embeds, strict=True)
        )


def _joined_embeds(
    video: Video, groups: Sequence[np.ndarray], device: torch.device | str
) -> Tensor | None:
    """Mask embeddings of all groups, (all N, C), or (T, all N, C); None without any."""
    kept = [group for group in groups if len(group)]
    if not kept:
        return None
    joined = np.concatenate(kept)
    own = video.video_mask_embeds()
    if joined.ndim == 1:
        joined = own[..., joined, :]
    elif joined.shape[1] > (channels := own.shape[-1]):
        joined = joined[:, :channels] + joined[:, channels:] @ own.astype(np.float32)
    return torch.from_numpy(joined).float().to(device)


class StoredMasks:
    """The segmenter's own masks of some video queries, as a light cache holds them.

    The segmenter stores those of its best queries; the others have none.

    Args:
        queries: whose masks are asked for.

    Raises:
        InputError: the cache holds no masks, or one that cannot be decoded.
    """

    def __init__(self, video: Video, queries: Collection[int]) -> None:
        self._size = (video.geometry.height, video.geometry.width)
        stored = video.segmenter_masks() if queries else {}
        if queries and not stored:
            raise InputError(
                f"video {video.id!r}: the cache holds neither mask features nor the segmenter's "
                "own masks, so there is nothing to replay from; extract again"
            )
        self._masks = {n: stored[n] for n in queries if n in stored}
        self._where = f"video {video.id!r}: the segmenter's own masks cannot be decoded"

    def mask(self, t: int, queries: Iterable[int]) -> np.ndarray:
        """The union of some queries' masks in frame t, (H, W) bool."""
        union = np.zeros(self._size, bool)
        codes = [self._masks[n][t] for n in map(int, queries) if n in self._masks]
        try:
            for code in filter(None, codes):
                union |= decode(code)
        except ValueError as error:
            raise InputError(f"{self._where} ({error}); extract it again") from None
        return union

    def logits(self, t: int, queries: np.ndarray) -> Tensor | None:
        """The same as logits without any doubt; None without queries."""
        if not len(queries):
            return None
        return torch.where(torch.from_numpy(self.mask(t, queries)), torch.inf, -torch.inf)


def vita_masks(video: Video, *, device: torch.device | str = "cpu") -> Iterator[np.ndarray]:
    """The segmenter's own masks of all video queries.

    Yields:
        (N_v, H, W) bool for each of the T frames.
    """
    embeds = torch.from_numpy(video.video_mask_embeds()).float().to(device)
    number = embeds.shape[-2]
    if video.codec.dtype is None:  # a light cache
        stored = StoredMasks(video, range(number))
        for t in range(video.num_frames):
            yield np.stack([stored.mask(t, [n]) for n in range(number)])
        return
    for t in range(video.num_frames):
        rows = embeds if embeds.ndim == 2 else embeds[t]
        logits = mask_logits(_read_frame(video, t, device=device), rows, codec=video.codec)[0]
        parts = logits.split(CHUNK)
        masks = [(to_original(part, video.geometry) > 0).cpu().numpy() for part in parts]
        yield np.concatenate(masks)
