"""The frozen VITA: Mask2Former on each frame, VITA's head over the frames of a video."""

from typing import Any, Self

import torch
from torch import Tensor
from transformers import Mask2FormerForUniversalSegmentation

from extract.frozen import NoRandomInit, freeze
from extract.segmenters.base import FrameOutput, Segmenter, VideoOutput
from extract.segmenters.vita.backbone import FoldedBackbone, state_of
from extract.segmenters.vita.config import VITAConfig
from extract.segmenters.vita.frame_decoder import decode_queries, float32
from extract.segmenters.vita.graphs import Graphs
from extract.segmenters.vita.head import VITAHead
from extract.segmenters.vita.pixel_decoder import decode_pixels
from extract.segmenters.vita.weights import load_weights


class VITA(Segmenter):
    """VITA for inference: no parameter has gradients, and no part ever leaves evaluation mode.

    To train the parts, build them on their own (`VITAConfig.mask2former`, `VITAHead`): their state
    dictionaries load into ``frame_model`` and ``head``.

    The library's Mask2Former holds the weights of the frame level; `FoldedBackbone`,
    `decode_pixels` and `decode_queries` compute with them what its forward pass would, and say how.

    Attributes:
        autocast: None, or the narrow type (``torch.bfloat16``, ``torch.float16``) in which the
            backbone, the attention and feed-forward layers of the frame decoder and the video head
            multiply. As in the reference, the pixel decoder stays float32, and so do norms,
            softmax, residual sums and masks. Outputs are float32 in any case.
        graphs: whether the frame level runs by CUDA graphs where it is on a CUDA device.
    """

    Config = VITAConfig
    stride, divisor = 4, 32  # of the mask features, and of the coarsest map

    def __init__(self, config: VITAConfig) -> None:
        super().__init__()
        self.config = config
        self.query_dim, self.mask_dim = config.hidden_dim, config.mask_dim
        self.num_classes = config.num_classes
        self.pixel_mean, self.pixel_std = config.pixel_mean, config.pixel_std
        self.frame_model = Mask2FormerForUniversalSegmentation(config.mask2former())
        self.head = VITAHead(config)
        self._backbone = FoldedBackbone(self.frame_model.model.pixel_level_module.encoder)
        self.graphs = True
        self._graphs = Graphs(self._frames)
        freeze(self)

    @classmethod
    def load(cls, config: VITAConfig, weights: str) -> Self:
        """Build one and load its weights; see `load_weights`."""
        with NoRandomInit():
            vita = cls(config)
        load_weights(vita, weights)
        return vita

    @property
    def mask_head(self) -> Any:
        """Three linear layers from a video query to its mask embedding."""
        return self.head.mask_embed.layers

    @torch.inference_mode()
    def frames(self, images: Tensor, state: None = None) -> tuple[FrameOutput, None]:
        """Frame queries and mask features of a chunk of frames, which do not see each other."""
        if images.is_cuda and self.graphs:
            captured = self.autocast, torch.backends.cudnn.allow_tf32, *state_of(self)
            return FrameOutput(*self._graphs(images, captured)), None
        return FrameOutput(*self._frames(images)), None

    def _frames(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Frame queries and mask features."""
        model = self.frame_model.model
        decoder = model.pixel_level_module.decoder
        with self._narrow():
            maps = self._backbone(images)
        with float32(images.device):
            pixels = decode_pixels(decoder, maps)
            mask_features = self._mask_features(pixels.finest)
        with self._narrow():
            queries = decode_queries(model.transformer_module, decoder.mask_projection, pixels)
        return queries.float(), mask_features

    @torch.inference_mode()
    def video(self, frame_queries: Tensor) -> VideoOutput:
        """Video queries, class logits and mask embeddings of B clips, from (B, T, N_f, C)."""
        with self._narrow():
            output = self.head(frame_queries)
        return VideoOutput(
            video_queries=output.video_queries.float(),
            logits=output.logits.float(),
            mask_embeds=output.mask_embeds.float(),
        )

    def _mask_features(self, finest: Tensor) -> Tensor:
        """VITA's projection of the finest map, (t, C, h, w) -> (t, C_mask, h, w) contiguous.

        As a product: the convolution would keep the map's channels last, for others to reorder.
        """
        projection = self.head.vita_mask_features
        weight = projection.weight.flatten(1).expand(len(finest), -1, -1)  # (t, C_mask, C)
        features = torch.baddbmm(projection.bias[:, None], weight, finest.flatten(2))
        return features.unflatten(2, finest.shape[-2:])
