"""The ordered trajectory of each object: the one part of a head that knows the order of frames.

Without it, everything that a head does is a sum over frames, and so is what the segmenter's video
queries are made of: a video and the same video played backwards are the same to it.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from cache_schema.host.cli import InputError
from train.heads.base import HeadInputs

#: Rates of change are those over so many frames of the video, and distances from an object's mean
#: are multiplied by so much: both are then of the size of the track's own numbers.
RATE_FRAMES, SPREAD = 10.0, 4.0
ORDERS = ("time", "random")


class Trajectories(nn.Module):
    """A vector to be added to each video query: where its object goes and how it looks on the way.

    Of each frame a linear map of `track_numbers`, plus what the video query reads among that
    frame's queries. Then two convolutions over time, maximum and mean over the frames, a linear map
    and LayerNorm.

    Args:
        tracks: with the segmenter's tracks; without, time alone is left of the numbers.
        frame_reading: with the reading of each frame's queries.
        frame_order: "time"; or "random", the control: frames are exchanged among their times.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        frame_dim: int,
        tracks: bool = True,
        frame_reading: bool = False,
        frame_order: str = "time",
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.tracks = tracks
        self.frame_order = frame_order
        self.numbers = nn.Linear(19 if tracks else 1, dim)
        self.query = None
        if frame_reading:
            self.query = nn.Linear(dim, dim)
            self.key, self.value = nn.Linear(frame_dim, dim), nn.Linear(frame_dim, dim)
            self.reading_norm = nn.LayerNorm(dim)
        self.first, self.second = (nn.Conv1d(dim, dim, 3, padding=1) for _ in range(2))
        self.pooled = nn.Linear(2 * dim, dim)
        self.norm = nn.LayerNorm(dim)

    def forward(self, queries: Tensor, inputs: HeadInputs) -> Tensor:
        """Follow the objects.

        Args:
            queries: of N objects, (B, N, C).
            inputs: with the tracks of the same.

        Returns:
            (B, N, C).
        """
        if len(queries) > 1 and inputs.tracks.stride(0) == 0:  # one video, for many expressions
            one = HeadInputs.of({name: own[:1] for name, own in inputs.present().items()})
            return self(queries[:1], one).expand_as(queries)
        frame_queries, frame_mask = inputs.frame_queries, inputs.frame_mask
        tracks, times = inputs.tracks, inputs.times
        if self.frame_order == "random":
            order = self._random_order(frame_mask)  # (B, T)
            frame_queries = torch.take_along_dim(frame_queries, order[:, :, None, None], dim=1)
            tracks = torch.take_along_dim(tracks, order[:, None, :, None], dim=2)
        numbers = track_numbers(tracks, times, frame_mask)
        tokens = self.numbers(numbers if self.tracks else numbers[..., -1:])  # (B, N, T, C)
        if self.query is not None:
            tokens = tokens + self.reading_norm(self._read(queries, frame_queries))
        real = frame_mask[:, None, None]  # (B, 1, 1, T)
        gate = real.expand(-1, tokens.shape[1], -1, -1).flatten(0, 1)  # (B * N, 1, T)
        tokens = tokens.flatten(0, 1).transpose(1, 2) * gate  # (B * N, C, T)
        tokens = self.first(tokens).relu() * gate
        tokens = tokens + self.second(tokens).relu() * gate  # zero or more, zero at padding
        mean = tokens.sum(dim=2) / gate.sum(dim=2)
        pooled = torch.cat([tokens.amax(dim=2), mean], dim=1)  # (B * N, 2 C)
        return self.norm(self.pooled(pooled)).unflatten(0, queries.shape[:2])

    def _read(self, queries: Tensor, frame_queries: Tensor) -> Tensor:
        """Attention within each frame: (B, N, C) and (B, T, N_f, C) to (B, N, T, C)."""
        query = self.query(queries).unflatten(-1, (self.num_heads, -1))
        key, value = (
            own(frame_queries).unflatten(-1, (self.num_heads, -1)) for own in (self.key, self.value)
        )
        logits = torch.einsum("bnhc,btfhc->bhntf", query, key) / query.shape[-1] ** 0.5
        return torch.einsum("bhntf,btfhc->bnthc", logits.softmax(dim=-1), value).flatten(-2)

    def _random_order(self, frame_mask: Tensor) -> Tensor:
        """An order (B, T) of the real frames: any in training, always the same in inference."""
        generator = None
        if not self.training:
            generator = torch.Generator(frame_mask.device).manual_seed(0)
        draws = torch.rand(frame_mask.shape, device=frame_mask.device, generator=generator)
        return draws.masked_fill(~frame_mask, 2.0).argsort(dim=1)


def track_numbers(tracks: Tensor, times: Tensor, frame_mask: Tensor) -> Tensor:
    """What is told of an object in each frame, (B, N, T, 19).

    Its track; how that changes *per time*, since a clip skips frames unevenly; its distance from
    the object's mean; and the time, 0 in the first and 1 in the last frame. Nothing changes or is
    far where an object is not seen.

    Args:
        tracks: (B, N, T, 6).
        times: (B, T), which frame of the video each frame is.
        frame_mask: (B, T) bool, True for real frames, which come first.
    """
    seen = (tracks[..., 4:5] > 0) & frame_mask[:, None, :, None]  # (B, N, T, 1), area above 0
    mean = (tracks * seen).sum(dim=2, keepdim=True) / seen.sum(dim=2, keepdim=True).clamp_min(1)
    apart = times.diff(dim=1).clamp_min(1.0)[:, None, :, None]
    change = tracks.diff(dim=2) / apart * (seen[:, :, 1:] & seen[:, :, :-1])
    change = nn.functional.pad(change, (0, 0, 1, 0)) * RATE_FRAMES
    since = times - times[:, :1]
    length = since.masked_fill(~frame_mask, 0.0).amax(dim=1, keepdim=True).clamp_min(1.0)
    when = (since / length)[:, None, :, None].expand(*tracks.shape[:3], 1)
    return torch.cat([tracks, change, (tracks - mean) * seen * SPREAD, when], dim=-1)


def check_parts(model: Mapping[str, Any]) -> None:
    """Refuse keys of a complete config that leave nothing to follow an object by."""
    if not (model["tracks"] or model["frame_reading"]):
        raise InputError(
            "config keys model.tracks and model.frame_reading are both False, so nothing is left "
            "of an object's trajectory: set one of them to True, or model.type='dmvs'"
        )
