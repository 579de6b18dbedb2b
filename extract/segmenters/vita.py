"""The frozen VITA: Mask2Former on each frame, VITA's head over the frames of a video."""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn
from transformers import Mask2FormerForUniversalSegmentation

from extract.segmenters.config import SegmenterConfig
from extract.segmenters.vita_head import VideoOutput, VITAHead


@dataclass
class FrameOutput:
    """What the frame level says of a chunk of t frames.

    Attributes:
        frame_queries: Q_f, (t, N_f, C), of the last decoder layer after its norm.
        mask_features: F_mask, (t, C_mask, h, w), at a quarter of the padded size.
    """

    frame_queries: Tensor
    mask_features: Tensor


class VITA(nn.Module):
    """VITA for inference: no parameter has gradients, and it never leaves evaluation mode.

    Weights are random until `extract.segmenters.weights.load_weights` fills them in. To train the
    parts, build them on their own (`SegmenterConfig.mask2former`, `VITAHead`): their state
    dictionaries load into ``frame_model`` and ``head``.
    """

    def __init__(self, config: SegmenterConfig) -> None:
        super().__init__()
        self.config = config
        self.frame_model = Mask2FormerForUniversalSegmentation(config.mask2former())
        self.head = VITAHead(config)
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode whatever is asked: the segmenter is frozen."""
        return super().train(False)

    @property
    def device(self) -> torch.device:
        """Where the weights are, and where images have to be."""
        return self.head.decoder_norm.weight.device

    @torch.no_grad()
    def frames(self, images: Tensor) -> FrameOutput:
        """Frame queries and mask features of a chunk of frames; frames do not see each other.

        Args:
            images: (t, 3, Hp, Wp) float32, normalised and padded (see `Preprocessor`).
        """
        model = self.frame_model.model
        decoder = model.pixel_level_module.decoder
        # VITA projects the finest map of the pixel decoder itself. The library returns that map
        # only after Mask2Former's own projection, so it is taken on its way in.
        finest: list[Tensor] = []
        hook = decoder.mask_projection.register_forward_pre_hook(
            lambda _, inputs: finest.append(inputs[0])
        )
        try:
            pixels = model.pixel_level_module(images)
        finally:
            hook.remove()
        # Below the library's own forward pass: that one also classifies the queries of every layer.
        layers = model.transformer_module(
            multi_scale_features=pixels.decoder_hidden_states,
            mask_features=pixels.decoder_last_hidden_state,
        ).intermediate_hidden_states  # (N_f, t, C) each, after the norm
        return FrameOutput(
            frame_queries=layers[-1].transpose(0, 1).contiguous(),  # (t, N_f, C)
            mask_features=self.head.vita_mask_features(finest[0]),  # (t, C_mask, h, w)
        )

    @torch.no_grad()
    def video(self, frame_queries: Tensor) -> VideoOutput:
        """Video queries, class logits and mask embeddings of B clips.

        Args:
            frame_queries: (B, T, N_f, C) float32.
        """
        return self.head(frame_queries)
