"""The frozen VITA over what was read: the part of stage one that everything else waits for."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cache_schema.host.cli import InputError
from extract.pipeline.parts import Clips, End, Frames, Head, Images, by_video
from extract.stage import Stage, clip_bank


def infer(stage: Stage, parts: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    """`Images` become `Frames`, and the `End` of a video becomes its `Clips`.

    Frame queries stay on the device until then: 4 * N_f * C bytes a frame.
    """

    def work(video_id: str, parts: Iterator[Any]) -> Iterator[Head | Frames | Clips]:
        queries: list[Tensor] = []
        together = 1
        for part in parts:
            try:
                if isinstance(part, Images):
                    together = max(together, len(part.pixels))
                    output = stage.vita.frames(stage.prepare(part))
                    queries.append(output.frame_queries)
                    part = Frames(output, stage.transfer.computed())
                elif isinstance(part, End):
                    part = video_level(stage, video_id, torch.cat(queries))
            except torch.OutOfMemoryError as error:
                raise InputError(
                    f"video {video_id!r} does not fit into the device's memory with "
                    f"--chunk-frames {together}: give a smaller number"
                ) from error
            yield part

    return by_video(parts, work)


def video_level(stage: Stage, video_id: str, queries: Tensor) -> Clips:
    """Video queries of a whole video and of its clip bank, from frame queries (T, N_f, C)."""
    bank = clip_bank(video_id, len(queries), **stage.config.clips)  # (K, T_c)
    outputs = [stage.vita.video(queries[None])]
    if len(bank):
        # (K, T_c, N_f, C)
        clips = queries[stage.transfer.upload(bank.astype(np.int64))]
        outputs.append(stage.vita.video(clips))
    together = {
        name: torch.cat([getattr(output, name) for output in outputs])
        for name in ("video_queries", "logits", "mask_embeds")
    }  # (1+K, N_v, ...)
    return Clips(bank=bank, **together, computed=stage.transfer.computed())
