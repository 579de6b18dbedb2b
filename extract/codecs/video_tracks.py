"""What the masks of all queries of a video and its clips show: tracks, and overlaps with objects.

Measured on the masks that readers of a cache get, those of the coded features.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from cache_schema.codecs import Codec
from cache_schema.host.cores import SPARE_THREADS
from cache_schema.records import Geometry
from extract.codecs.mask_codec import CodedLogits
from extract.segmenters.masks import measure

#: On a device: codes of a video that are kept there until its queries are known, and the cells of
#: masks that are measured together.
KEPT_BYTES, MEASURED_CELLS = 1 << 31, 1 << 25


def video_tracks(
    coded: Callable[[int], Mapping[str, np.ndarray]],
    codec: Codec,
    embeds: Sequence[np.ndarray],
    bank: np.ndarray,
    num_frames: int,
    geometry: Geometry,
    objects: np.ndarray | None = None,
) -> list[tuple[np.ndarray, np.ndarray | None]]:
    """Tracks and overlaps of the whole video first, then of each clip.

    One frame a thread is in memory at a time, and of each clip only its own frames are looked at.

    Args:
        coded: the coded arrays of frame t, each with a leading axis of 1.
        embeds: of the whole video and of each clip, (N_v, C), or (T, N_v, C) for its own frames.
        bank: (K, T_c), frames of each clip, sorted.
        num_frames: T.
        objects: (T, O, rows, columns), see `object_cells`; None without objects.

    Returns:
        Tracks (N_v, T, 6) and overlaps (N_v, O), float16, with the clip's own T. Overlaps are None
        without objects.
    """
    logits, rows = _logits(codec, [torch.from_numpy(each) for each in embeds])
    queries, clips = embeds[0].shape[-2], [range(num_frames), *bank.tolist()]
    shown: list[list[tuple[int, Tensor]]] = [[] for _ in range(num_frames)]  # [t]: clip, its rows
    for number, times in enumerate(clips):
        for position, t in enumerate(times):
            own = rows[number]
            shown[t].append((number, own if own.dim() == 1 else own[position]))

    def measured(t: int, stored: Mapping[str, np.ndarray]) -> list[Tensor]:
        frame = {name: array[0] for name, array in stored.items()}
        maps = logits(frame, torch.cat([own for _, own in shown[t]]))  # (clips here * N_v, h, w)
        cells = None if objects is None else torch.from_numpy(objects[t : t + 1])
        tracks, areas, shared = measure(maps[None], geometry, cells)
        # a copy each: what a thread has made would be kept in shreds
        together = tracks, areas.T, shared.transpose(0, 1)  # (clips here * N_v, 1, ...)
        return [each.unflatten(0, (-1, queries)).clone() for each in together]

    parts: list[list[tuple[Tensor, ...]]] = [[] for _ in clips]
    with ThreadPoolExecutor(SPARE_THREADS) as pool:
        for start in range(0, num_frames, SPARE_THREADS):
            times = range(start, min(start + SPARE_THREADS, num_frames))
            for t, found in zip(times, pool.map(measured, times, map(coded, times)), strict=True):
                for (number, _), *part in zip(shown[t], *found, strict=True):
                    parts[number].append(part)
    made = []
    for times, part in zip(clips, parts, strict=True):
        tracks, areas, shared = (torch.cat(each, 1) for each in zip(*part, strict=True))
        overlaps = _overlaps(areas.T, shared.transpose(0, 1), objects, times)
        made.append((tracks.numpy(), overlaps if overlaps is None else overlaps.numpy()))
    return made


class KeptCodes:
    """The codes of a video on the device where they were made, in bounded memory."""

    def __init__(self) -> None:
        self._frames: list[dict[str, Tensor]] = []
        self._left = KEPT_BYTES

    def add(self, coded: Mapping[str, Tensor]) -> None:
        """Keep the next t frames, or nothing any more if the video is too long."""
        self._left -= sum(array.nbytes for array in coded.values())
        if self._left < 0:
            self._frames.clear()
            return
        for frame in zip(*coded.values(), strict=True):
            self._frames.append(dict(zip(coded, frame, strict=True)))

    @torch.no_grad()
    def tracks(
        self,
        codec: Codec,
        embeds: Sequence[Tensor],
        bank: np.ndarray,
        geometry: Geometry,
        objects: np.ndarray | None = None,
    ) -> list[tuple[Tensor, Tensor | None]] | None:
        """As `video_tracks`, on the device; None if the video was too long."""
        if self._left < 0:
            return None
        (logits, every), first = _logits(codec, embeds), self._frames[0]
        step = max(MEASURED_CELLS // (every[0].shape[-1] * first["values"][0].numel()), 1)
        made = []
        for rows, times in zip(every, [range(len(self._frames)), *bank.tolist()], strict=True):
            parts = []
            for start in range(0, len(times), step):
                some = times[start : start + step]
                stored = {n: torch.stack([self._frames[t][n] for t in some]) for n in first}
                own = rows if rows.dim() == 1 else rows[start : start + step]
                maps, cells = logits.together(stored, own), None
                if objects is not None:
                    cells = torch.from_numpy(objects[list(some)]).to(maps.device)
                parts.append(measure(maps, geometry, cells))
            tracks, areas, shared = zip(*parts, strict=True)
            overlaps = _overlaps(torch.cat(areas), torch.cat(shared), objects, times)
            made.append((torch.cat(tracks, 1), overlaps))
        return made


def _logits(codec: Codec, embeds: Sequence[Tensor]) -> tuple[CodedLogits, list[Tensor]]:
    """Logits of the embeddings of all clips, and which of their rows are whose: (N,) or (T, N)."""
    sizes = [each[..., 0].numel() for each in embeds]
    every = torch.arange(sum(sizes), device=embeds[0].device).split(sizes)
    rows = [row.view(each.shape[:-1]) for row, each in zip(every, embeds, strict=True)]
    return CodedLogits(codec, torch.cat([each.flatten(0, -2) for each in embeds])), rows


def _overlaps(
    areas: Tensor, shared: Tensor, objects: np.ndarray | None, times: Iterable[int]
) -> Tensor | None:
    """IoU of queries' masks with objects over all frames together, (N, O) float16.

    Args:
        areas, shared: (T, N) and (T, N, O), see `measure`.
        objects: (T', O, rows, columns) of the whole video.
        times: (T,), which frames of it these are.
    """
    if objects is None:
        return None
    own = torch.from_numpy(objects[list(times)].sum((0, 2, 3), dtype=np.float64)).to(areas.device)
    inside = shared.double().sum(0)  # (N, O)
    union = areas.double().sum(0)[:, None] + own - inside
    return torch.where(union > 0, inside / union, 0).half()
