"""The seam of the segmenters: what stage one asks of a frozen model that finds a video's objects.

A segmenter is one module with one class. It goes frame by frame (`Segmenter.frames`), a chunk at a
time and with a state of its own, then over what the frames of a clip have said (`Segmenter.video`).
``segmenter.type`` of a configuration picks a module of this folder, or ``package.module:Class``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from pathlib import Path
from typing import Any, ClassVar, Self, get_origin

import torch
from torch import Tensor, nn

from cache_schema.fingerprint import file_sha256
from cache_schema.host.keys import checked, fill, keys_of
from cache_schema.host.lookup import find_kind
from cache_schema.records import SegmenterFacts
from extract.segmenters.preprocessing import Preprocessor

#: Modules of this folder that are no segmenter.
SHARED = {"base", "masks", "preprocessing"}


@dataclass
class FrameOutput:
    """What the frame level says of a chunk of t frames.

    Attributes:
        frame_queries: Q_f, (t, N_f, C).
        mask_features: F_mask, (t, C_mask, h, w), one cell a stride of the padded frame.
        kept: what else `Segmenter.video` takes, (t, ...) each, by the names of its arguments. It
            stays in memory until the video has ended.
        shared: what `Segmenter.clip_frames` takes, (t, ...) each; it goes with the chunk.
    """

    frame_queries: Tensor
    mask_features: Tensor
    kept: dict[str, Tensor] = field(default_factory=dict)
    shared: dict[str, Tensor] = field(default_factory=dict)

    def __getitem__(self, frames: Any) -> "FrameOutput":
        """Some of the frames."""
        kept, shared = (
            {name: tensor[frames] for name, tensor in part.items()}
            for part in (self.kept, self.shared)
        )
        return FrameOutput(self.frame_queries[frames], self.mask_features[frames], kept, shared)

    @property
    def for_video(self) -> dict[str, Tensor]:
        """The arguments of `Segmenter.video`, (t, ...) each."""
        return {"frame_queries": self.frame_queries, **self.kept}


@dataclass
class VideoOutput:
    """What the video level says of a batch of B clips of T frames.

    Attributes:
        video_queries: (B, N_v, C).
        logits: (B, N_v, K+1); the last class is no-object.
        mask_embeds: (B, N_v, C_mask), or (B, T, N_v, C_mask) where they change from frame to frame;
            mask logits are their products with the mask features.
    """

    video_queries: Tensor
    logits: Tensor
    mask_embeds: Tensor


class Segmenter(nn.Module):
    """A frozen segmenter. A subclass is built as ``cls(config)``, with random weights.

    Attributes:
        Config: a dataclass whose fields are the keys of ``segmenter`` beside ``type``, with their
            types and defaults, and limits in ``RANGES``; it may refuse values with an `InputError`.
        identity: whether frame query n of a frame continues as n in the next.
        query_dim, mask_dim: C of queries, C_mask of mask features and embeddings.
        num_classes: K, without no-object.
        stride: pixels of the padded frame a side of a cell of the mask features.
        divisor: frames are padded to a multiple of it.
        pixel_mean, pixel_std: normalisation of RGB values from 0 to 255.
        mask_head: the linear layers that make mask embeddings of queries, for heads that start
            from them; none by default.
        activation: between these layers, one of `cache_schema.records.ACTIVATIONS`.
        keep: how many queries of a video are stored, those of its best S_v, as video and as frame
            queries. For one with identity whose `FrameOutput.kept` holds the logits of each frame
            and of all that it holds (t, N_f, ...). None stores all.
        autocast: None, or the narrow type that the segmenter may multiply in.
        config: as it was built with.
    """

    Config: ClassVar[type]
    identity: ClassVar[bool] = False
    query_dim: int
    mask_dim: int
    num_classes: int
    stride: int
    divisor: int
    pixel_mean: Sequence[float] = (123.675, 116.28, 103.53)
    pixel_std: Sequence[float] = (58.395, 57.12, 57.375)
    mask_head: Sequence[nn.Linear] = ()
    activation: str = "relu"
    keep: int | None = None
    autocast: torch.dtype | None = None
    config: Any

    @classmethod
    def load(cls, config: Any, weights: str) -> Self:
        """One with weights from outside, on the CPU; InputError if they do not fit."""
        raise NotImplementedError

    @classmethod
    def digest(cls, weights: str) -> str:
        """What stands for weights in a cache's fingerprint; of a file its SHA-256."""
        return file_sha256(Path(weights))

    def frames(self, images: Tensor, state: Any = None) -> tuple[FrameOutput, Any]:
        """The frame level of the next chunk of a video.

        Args:
            images: (t, 3, Hp, Wp) float32, normalised and padded.
            state: what this method returned with the chunk before; None starts a video.

        Returns:
            What it says, and the state for the next chunk: None where frames do not see each other.
        """
        raise NotImplementedError

    def clip_frames(self, images: Tensor, seen: FrameOutput, state: Any) -> tuple[FrameOutput, Any]:
        """The next frames of a clip that starts from its own first frame, as `frames`.

        Asked for only where `frames` returns a state: otherwise a clip's frames say what they say
        in the video. A segmenter whose frames have work in common whatever came before them puts
        the result into ``seen.shared`` and continues from there, so that it is done once.

        Args:
            images: (t, 3, Hp, Wp), frames of the clip.
            seen: what the same frames said in the video.
            state: of the clip; None starts it.
        """
        return self.frames(images, state)

    def video(self, frame_queries: Tensor, **kept: Tensor) -> VideoOutput:
        """Video queries, class logits and mask embeddings of B clips.

        Args:
            frame_queries: (B, T, N_f, C).
            kept: (B, T, ...), what `FrameOutput.kept` holds.
        """
        raise NotImplementedError

    def preprocessor(self, short: int | None, longest: int | None) -> Preprocessor:
        """How frames are resized and padded; see `Preprocessor`."""
        mean, std = self.pixel_mean, self.pixel_std
        return Preprocessor(short, longest, mean, std, stride=self.stride, divisor=self.divisor)

    @property
    def device(self) -> torch.device:
        """Where the weights are, and where images have to be."""
        return next(self.parameters()).device

    def _narrow(self) -> torch.autocast:
        """The context of what may multiply in the narrow type."""
        narrow = self.autocast
        return torch.autocast(self.device.type, dtype=narrow, enabled=narrow is not None)

    def facts(self, name: str) -> SegmenterFacts:
        """What a cache says of the segmenter that a configuration calls ``name``."""
        layers = [(layer.weight, layer.bias) for layer in self.mask_head]
        head = tuple(tuple(t.detach().float().cpu().numpy() for t in layer) for layer in layers)
        return SegmenterFacts(name, self.identity, head, self.activation)

    def check_frames(self, images: Tensor, output: FrameOutput) -> None:
        """Raise ValueError if the frame level says anything else than it declares."""
        frames, _, height, width = images.shape
        expected = (frames, self.mask_dim, height // self.stride, width // self.stride)
        queries, features = tuple(output.frame_queries.shape), tuple(output.mask_features.shape)
        if features != expected or queries[::2] != (frames, self.query_dim):
            raise ValueError(
                f"{type(self).__name__}.frames gave mask features {features} and frame queries "
                f"{queries}, where it declares {expected} and ({frames}, N_f, {self.query_dim})"
            )

    def check_video(self, clips: int, output: VideoOutput) -> None:
        """Raise ValueError if the video level says anything else of clips than it declares."""
        queries, logits, embeds = (
            tuple(tensor.shape)
            for tensor in (output.video_queries, output.logits, output.mask_embeds)
        )
        number = queries[1:2]
        if (
            queries != (clips, *number, self.query_dim)
            or logits != (clips, *number, self.num_classes + 1)
            or (embeds[0], *embeds[-2:]) != (clips, *number, self.mask_dim)
        ):
            raise ValueError(
                f"{type(self).__name__}.video gave video queries {queries}, logits {logits} and "
                f"mask embeddings {embeds}, where it declares ({clips}, N_v, {self.query_dim}), "
                f"({clips}, N_v, {self.num_classes + 1}) and ({clips}, ..., N_v, {self.mask_dim})"
            )


def best_queries(logits: Tensor, keep: int | None) -> Tensor:
    """The video queries of the best S_v, ascending; the first of equals.

    Args:
        logits: (N_v, K+1), no-object last.
        keep: how many; None is all.
    """
    scores = logits.softmax(-1)[:, :-1].amax(-1)  # S_v
    return scores.argsort(descending=True, stable=True)[:keep].sort().values


def find_segmenter(name: str) -> type[Segmenter]:
    """The class that ``segmenter.type`` names; InputError if there is none."""
    return find_kind(str(name), "segmenter.type", Segmenter, __package__, SHARED)


def configure(kind: type, values: Mapping[str, Any]) -> Any:
    """A dataclass from what a configuration says, its keys checked, see `keys_of`.

    Args:
        kind: such as `Segmenter.Config`.

    Raises:
        InputError: naming an unknown or missing key, or a value of another type.
    """
    known = {
        name: replace(key, limits=key.limits or (-inf, inf))
        for name, key in keys_of(kind, positional=True).items()
    }
    plain = {name: _plain(value) for name, value in values.items()}
    fill(checked(plain, known, "segmenter"), known, "segmenter")
    # As they were given: 1 and 1.0 are not the same in a fingerprint.
    for name, value in plain.items():
        if get_origin(known[name].hint) is tuple:
            plain[name] = tuple(value if isinstance(value, list) else [value])
    return kind(**plain)


def _plain(value: Any) -> Any:
    """Mappings and sequences of a config library as dict and list."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
