"""The frozen segmenter over what was read: the part of stage one that everything else waits for."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cache_schema.host.cli import InputError
from extract.pipeline.parts import Clips, End, Frames, Head, Images, by_video
from extract.segmenters.base import FrameOutput, Segmenter, VideoOutput
from extract.stage import Stage, clip_bank


def infer(stage: Stage, parts: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    """`Images` become `Frames`, and the `End` of a video becomes its `Clips`.

    What the video level takes stays on the device until then: 4 * N_f * C bytes a frame.
    """

    def work(video_id: str, parts: Iterator[Any]) -> Iterator[Head | Frames | Clips]:
        together = 1
        for part in parts:
            try:
                if isinstance(part, Head):
                    bank = clip_bank(video_id, len(part.frame_names), **stage.config.clips)
                    run = VideoRun(stage, bank)
                elif isinstance(part, Images):
                    together = max(together, len(part.pixels))
                    part = Frames(run.frames(stage.prepare(part)), stage.transfer.computed())
                elif isinstance(part, End):
                    part = run.clips()
            except torch.OutOfMemoryError as error:
                raise InputError(
                    f"video {video_id!r} does not fit into the device's memory with "
                    f"--chunk-frames {together}: give a smaller number"
                ) from error
            yield part

    return by_video(parts, work)


class VideoRun:
    """A video on its way through the segmenter, and the clips of its bank beside it.

    Where frames do not see each other, clips take what their frames have said in the video. Where
    they do, every clip is a run of its own with a state of its own, a chunk of the video at a time.
    """

    def __init__(self, stage: Stage, bank: np.ndarray) -> None:
        self._stage, self._bank, self._seen = stage, bank, 0
        self.video = ClipFrames()
        self._clips = [ClipFrames() for _ in bank]

    def frames(self, images: Tensor) -> FrameOutput:
        """What the next frames of the video say."""
        segmenter, own = self._stage.segmenter, self.video
        output, own.state = segmenter.frames(images, own.state)
        segmenter.check_frames(images, output)
        own.add(output)
        if own.state is not None:
            for clip, indices in zip(self._clips, self._bank - self._seen, strict=True):
                here = indices[(indices >= 0) & (indices < len(images))].tolist()
                if here:
                    seen, some = output[here], images[here]
                    alone, clip.state = segmenter.clip_frames(some, seen, clip.state)
                    clip.add(alone)
        self._seen += len(images)
        return FrameOutput(output.frame_queries, output.mask_features)

    def clips(self) -> Clips:
        """The video level of the whole video and of its bank."""
        stage, bank, whole = self._stage, self._bank, self.video.together()
        outputs = [stage.segmenter.video(**{name: own[None] for name, own in whole.items()})]
        if len(bank):
            if self.video.state is None:
                frames = stage.transfer.upload(bank.astype(np.int64))
                clips = {name: own[frames] for name, own in whole.items()}
            else:
                each = [clip.together() for clip in self._clips]
                clips = {name: torch.stack([own[name] for own in each]) for name in whole}
            outputs.append(stage.segmenter.video(**clips))  # of (K, T_c, ...)
        return Clips(
            bank=bank,
            video_queries=torch.cat([output.video_queries for output in outputs]),
            logits=torch.cat([output.logits for output in outputs]),
            mask_embeds=[embeds for output in outputs for embeds in output.mask_embeds],
            computed=stage.transfer.computed(),
        )


class ClipFrames:
    """The frame level of a clip so far, and the state that its next frames start from."""

    def __init__(self) -> None:
        self.state: Any = None
        self._parts: dict[str, list[Tensor]] = defaultdict(list)

    def add(self, output: FrameOutput) -> None:
        for name, tensor in output.for_video.items():
            self._parts[name].append(tensor)

    def together(self) -> dict[str, Tensor]:
        """(T, ...) each, the arguments of `Segmenter.video`."""
        return {name: torch.cat(tensors) for name, tensors in self._parts.items()}


def clip_of(segmenter: Segmenter, chunks: Iterable[Tensor]) -> tuple[Tensor, VideoOutput]:
    """A clip by itself, from its own first frame.

    Args:
        segmenter: on the device of the images.
        chunks: (t, 3, Hp, Wp) each.

    Returns:
        Mask features (T, C_mask, h, w), and the video level for a batch of one.
    """
    frames, features = ClipFrames(), []
    for images in chunks:
        output, frames.state = segmenter.frames(images, frames.state)
        frames.add(output)
        features.append(output.mask_features)
    clip = {name: tensor[None] for name, tensor in frames.together().items()}
    return torch.cat(features), segmenter.video(**clip)
