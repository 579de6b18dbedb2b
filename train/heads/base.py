"""What a head is: the seam between the caches and whatever learns from them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from train.losses import Criterion, HeadCriterion


@dataclass(frozen=True)
class CacheSizes:
    """Sizes and facts of the caches that a head is for; they come from the caches.

    Attributes:
        query_dim: channels C of frame and video queries.
        text_dim: channels C_text of words and sentence.
        mask_dim: channels C_mask of mask embeddings.
        num_video_queries: N_v.
        num_classes: K, without "no object".
        identity: whether frame query n of one frame goes on as n in the next.
        mask_head: weight (out, in) and bias (out,), float32, of the segmenter's own three linear
            layers; empty where the cache does not hold them.
        activation: between these layers, "relu" or "gelu".
        num_frame_queries: N_f.
        by_frame: whether the segmenter's mask embeddings change from frame to frame.
    """

    query_dim: int
    text_dim: int
    mask_dim: int
    num_video_queries: int
    num_classes: int
    identity: bool = False
    mask_head: tuple[tuple[np.ndarray, np.ndarray], ...] = field(default=(), compare=False)
    num_frame_queries: int = 100
    activation: str = "relu"
    by_frame: bool = False


@dataclass
class HeadInputs:
    """What a head may read, padded to one size over the batch; floats are float32.

    Text and masks are always there, the rest where some head of the pass reads it.

    Attributes:
        frame_queries: Q_f, (B, T, N_f, C), frames in order.
        frame_mask: (B, T) bool, True for real frames, at least one a row; others are at the end.
        video_queries: Q_v, (B, N_v, C).
        video_logits: (B, N_v, K + 1), "no object" last.
        words: (B, K_w, C_text), the text encoder's.
        word_mask: (B, K_w) bool, True for real words.
        static: (B, K_w) bool, static cues.
        motion: (B, K_w) bool, motion cues.
        sentence: F_se, (B, C_text), the mean of the words.
        tracks: (B, N_v, T, 6), of the video queries' own masks: centre x, y, width and height, area
            as fractions of the image, mean probability.
        times: (B, T), which frame of the video each frame is.
        mask_embeds: of the video queries, (B, N_v, C_mask), or (B, T, N_v, C_mask) where they
            change from frame to frame.
    """

    frame_queries: Tensor | None
    frame_mask: Tensor
    video_queries: Tensor | None
    video_logits: Tensor | None
    words: Tensor
    word_mask: Tensor
    static: Tensor
    motion: Tensor
    sentence: Tensor
    tracks: Tensor | None = None
    times: Tensor | None = None
    mask_embeds: Tensor | None = None

    def present(self) -> dict[str, Tensor]:
        """The fields that are there, by name."""
        every = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: tensor for name, tensor in every.items() if tensor is not None}

    @staticmethod
    def of(tensors: Mapping[str, Tensor]) -> "HeadInputs":
        """The inputs of fields by name; what is not given is not there."""
        return HeadInputs(**{f.name: tensors.get(f.name) for f in fields(HeadInputs)})

    def to(self, device: torch.device | str) -> "HeadInputs":
        """The same inputs on another device."""
        return HeadInputs.of({n: tensor.to(device) for n, tensor in self.present().items()})


@dataclass
class HeadOutput:
    """What one decoder layer says.

    Attributes:
        logits: (B, N_m); the sigmoid is the score S of Eq. (9).
        mask_embeds: (B, N_m, C_mask); the dot product with F_mask is the mask logit of Eq. (10).
            With N_v numbers more, how much of the mask logits of each video query is added to it.
            None for a head that selects among the segmenter's own masks; it has sources.
        sources: (B, N_m) int64, the video queries that the motion queries are or started as, None
            if they started as something else.
        more: what only the head's own criterion reads, by name; looked at in the last layer.
    """

    logits: Tensor
    mask_embeds: Tensor | None
    sources: Tensor | None = None
    more: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.mask_embeds is None and self.sources is None:
            raise ValueError("a head that draws no masks says which video queries it scores")
        shapes = [tuple(t.shape[:2]) for t in (self.mask_embeds, self.sources) if t is not None]
        if any(shape != self.logits.shape for shape in shapes):
            raise ValueError(f"logits of {tuple(self.logits.shape)} beside masks of {shapes}")


class Head(nn.Module):
    """A head: a module of this package, or a class anywhere, that ``model.type`` names.

    The constructor is ``__init__(self, sizes: CacheSizes, *, key=default, ...)``: its keyword-only
    arguments are the keys of the config's ``model`` section, of the type of their defaults.

    Attributes:
        reads: fields of `HeadInputs` that it needs. What no head of a pass reads is not loaded.
        loss: its criterion; the keyword-only arguments are the keys of the section ``loss``.
        recorded: whether its passes may be CUDA graphs: nothing in them waits for the host.
        RANGES: key to the least and the most that it may be; here of keys that many heads have.
        CHOICES: key to the words that it may be, or that it may hold.
    """

    reads: ClassVar[tuple[str, ...]] = ()
    loss: ClassVar[type[Criterion]] = HeadCriterion
    recorded: ClassVar[bool] = True
    RANGES: ClassVar[Mapping[str, tuple[float, float]]] = {
        **dict.fromkeys(("hidden_dim", "text_dim", "mask_dim", "num_heads"), (1, 1 << 16)),
        **dict.fromkeys(("num_layers", "encoder_layers", "window_size"), (1, 1000)),
        "num_motion_queries": (1, 1 << 14),
        "feedforward_dim": (1, 1 << 18),
        "dropout": (0, 1),
    }
    CHOICES: ClassVar[Mapping[str, Sequence[str]]] = {}

    @classmethod
    def needs(cls, model: Mapping[str, Any]) -> frozenset[str]:
        """What training needs of the caches: what the head and its loss read.

        Args:
            model: the config's section.
        """
        return frozenset(cls.reads) | frozenset(cls.loss.reads)

    @classmethod
    def check(cls, model: Mapping[str, Any], loss: Mapping[str, Any]) -> None:
        """Refuse keys of a complete config that do not go together, with an `InputError`."""

    def forward(self, inputs: HeadInputs) -> list[HeadOutput]:
        """Say which objects the sentence means: one output a decoder layer, the last counts."""
        raise NotImplementedError
