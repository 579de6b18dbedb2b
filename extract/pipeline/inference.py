"""The frozen segmenter over what was read: the part of stage one that everything else waits for."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cache_schema.host.cli import InputError
from extract.pipeline.parts import Clips, End, Frames, Head, Images, by_video
from extract.pipeline.spilled import Spilled
from extract.segmenters.base import FrameOutput, Segmenter, VideoOutput, best_queries
from extract.stage import Stage, clip_bank


def infer(stage: Stage, parts: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    """`Images` become `Frames`, and the `End` of a video becomes its `Clips`.

    What the video level takes stays on the device until then, 4 * N_f * C bytes a frame; of a
    segmenter that stores some queries only, in a file of as many bytes.
    """

    def work(video_id: str, parts: Iterator[Any]) -> Iterator[Head | Frames | Clips]:
        together = 1
        for part in parts:
            try:
                if isinstance(part, Head):
                    bank = clip_bank(video_id, part.shown(), **stage.config.clips)
                    run = VideoRun(stage, len(part.frame_names), bank)
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

    def __init__(self, stage: Stage, frames: int, bank: np.ndarray) -> None:
        self._stage, self._bank, self._seen = stage, bank, 0
        self.video = ClipFrames(stage, frames)
        self._clips = [ClipFrames(stage, len(indices)) for indices in bank]

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
                    every = len(here) == len(images)  # then no copy
                    seen, some = (output, images) if every else (output[here], images[here])
                    alone, clip.state = segmenter.clip_frames(some, seen, clip.state)
                    clip.add(alone)
        self._seen += len(images)
        return FrameOutput(output.frame_queries, output.mask_features)

    def clips(self) -> Clips:
        """The video level of the whole video and of its bank."""
        stage, bank, best = self._stage, self._bank, None
        if stage.segmenter.keep is not None:
            logits = self.video.arrays["logits"]  # (T, N_f, K+1)
            best = best_queries(logits.mean(0), stage.segmenter.keep)
        whole = self.video.together(best)
        outputs = [stage.segmenter.video(**{name: own[None] for name, own in whole.items()})]
        if len(bank):
            if self.video.state is None:
                frames = stage.transfer.upload(bank.astype(np.int64))
                clips = {name: own[frames] for name, own in whole.items()}
            else:
                each = [clip.together(best) for clip in self._clips]
                clips = {name: torch.stack([own[name] for own in each]) for name in whole}
            outputs.append(stage.segmenter.video(**clips))  # of (K, T_c, ...)
        for output, number in zip(outputs, (1, len(bank)), strict=False):
            stage.segmenter.check_video(number, output)
        return Clips(
            bank=bank,
            frame_queries=None if best is None else whole["frame_queries"],
            video_queries=torch.cat([output.video_queries for output in outputs]),
            logits=torch.cat([output.logits for output in outputs]),
            mask_embeds=[embeds for output in outputs for embeds in output.mask_embeds],
            computed=stage.transfer.computed(),
        )


class ClipFrames:
    """The frame level of a clip so far, and the state that its next frames start from.

    Attributes:
        arrays: (T, ...) each, the arguments of `Segmenter.video`, but for those in a file.
    """

    def __init__(self, stage: Stage, frames: int) -> None:
        self.state: Any = None
        self.arrays: dict[str, Tensor] = {}
        self._frames, self._seen = frames, 0
        self._transfer = stage.transfer
        # Most queries are not stored, but which, the end of the video tells.
        self._queries = None if stage.segmenter.keep is None else Spilled()
        self._arriving: Callable[[], dict[str, np.ndarray]] = dict

    def add(self, output: FrameOutput) -> None:
        """The next frames."""
        arrays = output.for_video
        if self._queries is not None:
            queries = {"frame_queries": arrays.pop("frame_queries")}
            self._spill(self._transfer.downloading(queries))
        for name, tensor in arrays.items():
            if not self._seen:
                # Whole: small tensors that stay between large ones that go leave memory in shreds.
                self.arrays[name] = tensor.new_empty(self._frames, *tensor.shape[1:])
            self.arrays[name][self._seen : self._seen + len(tensor)] = tensor
        self._seen += len(output.frame_queries)

    def together(self, best: Tensor | None) -> dict[str, Tensor]:
        """(T, ...) each, the arguments of `Segmenter.video`, of some queries; None is all."""
        if best is None:
            return self.arrays
        self._spill(dict)
        some = best.cpu().numpy()
        queries = np.empty((self._frames, len(some), self._queries.shape[-1]), np.float32)
        for t in range(self._frames):
            queries[t] = self._queries[t][some]
        own = {name: array[:, best] for name, array in self.arrays.items()}
        return {"frame_queries": self._transfer.upload(queries), **own}

    def _spill(self, following: Callable[[], dict[str, np.ndarray]]) -> None:
        """Write what has arrived: the queries of the chunk before, which no copy waits for."""
        for queries in self._arriving().values():
            self._queries.append(queries)
        self._arriving = following


def clip_of(segmenter: Segmenter, chunks: Iterable[Tensor]) -> tuple[Tensor, VideoOutput]:
    """A clip by itself, from its own first frame.

    Args:
        chunks: (t, 3, Hp, Wp) each.

    Returns:
        Mask features (T, C_mask, h, w), and the video level for a batch of one.
    """
    state, outputs = None, []
    for images in chunks:
        output, state = segmenter.frames(images, state)
        outputs.append((output.mask_features, output.for_video))
    features, parts = zip(*outputs, strict=True)
    clip = {name: torch.cat([part[name] for part in parts])[None] for name in parts[0]}
    return torch.cat(features), segmenter.video(**clip)
