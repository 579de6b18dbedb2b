"""Tracks of every query of a video and its clip bank, measured on what readers of a cache get."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from cache_schema.codecs import Codec
from cache_schema.host.cores import SPARE_THREADS
from cache_schema.records import Geometry
from extract.codecs.mask_codec import CodedLogits
from extract.pipeline.parts import Tracks
from extract.segmenters.masks import tracks

#: On a device: codes of a video that are kept there until its queries are known, and the cells of
#: masks that are measured together.
KEPT_BYTES, MEASURED_CELLS = 1 << 31, 1 << 25


def video_tracks(
    coded: Callable[[int], Mapping[str, np.ndarray]],
    codec: Codec,
    embeds: np.ndarray,
    bank: np.ndarray,
    num_frames: int,
    geometry: Geometry,
) -> Tracks:
    """Tracks of the masks that readers of the cache get: of the coded features.

    One frame a thread is in memory at a time, and of each clip only its own frames are looked at.

    Args:
        coded: the coded arrays of frame t, each with a leading axis of 1.
        codec: of the frames.
        embeds: (1+K, N_v, C), of the whole video and of each clip.
        bank: (K, T_c), frames of each clip, sorted.
        num_frames: T.
        geometry: of the video.

    Returns:
        (N_v, T, 6) float16, and for each clip (N_v, T_c, 6).
    """
    logits = CodedLogits(codec, torch.from_numpy(embeds).flatten(0, 1))
    shown = np.ones((1 + len(bank), num_frames), bool)  # [clip, t]
    for clip, frames in zip(shown[1:], bank, strict=True):
        clip[:] = False
        clip[frames] = True
    queries = embeds.shape[1]
    rows = torch.arange(len(shown) * queries).view(-1, queries)  # [clip, n]

    def measure(t: int, stored: Mapping[str, np.ndarray]) -> np.ndarray:
        frame = {name: array[0] for name, array in stored.items()}
        maps = logits(frame, rows[shown[:, t]].flatten())  # (clips here * N_v, h, w)
        return tracks(maps[None], geometry).numpy().reshape(-1, queries, 1, 6)

    parts: list[list[np.ndarray]] = [[] for _ in shown]
    with ThreadPoolExecutor(SPARE_THREADS) as pool:
        for start in range(0, num_frames, SPARE_THREADS):
            times = range(start, min(start + SPARE_THREADS, num_frames))
            for t, found in zip(times, pool.map(measure, times, map(coded, times)), strict=True):
                for clip, part in zip(np.flatnonzero(shown[:, t]), found, strict=True):
                    # (N_v, 1, 6); a copy, or the other thread's memory would be kept in shreds
                    parts[clip].append(part.copy())
    whole, *clips = (np.concatenate(part, axis=1) for part in parts)
    return whole, clips


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
        self, codec: Codec, embeds: Tensor, bank: np.ndarray, geometry: Geometry
    ) -> list[Tensor] | None:
        """As `video_tracks`, on the device: of the whole video first, then of each clip.

        None if the video was too long.
        """
        if self._left < 0:
            return None
        queries = embeds.shape[1]
        logits = CodedLogits(codec, embeds.flatten(0, 1))

        def measured(number: int, times: Sequence[int]) -> Tensor:
            rows = slice(number * queries, (number + 1) * queries)
            cells = queries * self._frames[0]["values"][0].numel()
            parts = []
            step = max(MEASURED_CELLS // cells, 1)
            for start in range(0, len(times), step):
                some = times[start : start + step]
                stored = {
                    name: torch.stack([self._frames[t][name] for t in some])
                    for name in self._frames[0]
                }
                parts.append(tracks(logits.together(stored, rows), geometry))
            return torch.cat(parts, 1)  # (N_v, t, 6)

        shown = [range(len(self._frames)), *bank.tolist()]
        return [measured(number, times) for number, times in enumerate(shown)]
