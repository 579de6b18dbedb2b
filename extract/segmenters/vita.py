"""The frozen VITA: Mask2Former on each frame, VITA's head over the frames of a video."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import Mask2FormerForUniversalSegmentation

from extract.frozen import freeze
from extract.segmenters.backbone import FoldedBackbone, state_of
from extract.segmenters.config import SegmenterConfig
from extract.segmenters.frame_decoder import decode_queries, float32
from extract.segmenters.graphs import Graphs
from extract.segmenters.pixel_decoder import decode_pixels
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
    """VITA for inference: no parameter has gradients, and no part ever leaves evaluation mode.

    Weights are random until `extract.segmenters.weights.load_weights` fills them in. To train the
    parts, build them on their own (`SegmenterConfig.mask2former`, `VITAHead`): their state
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

    def __init__(self, config: SegmenterConfig) -> None:
        super().__init__()
        self.config = config
        self.autocast: torch.dtype | None = None
        self.frame_model = Mask2FormerForUniversalSegmentation(config.mask2former())
        self.head = VITAHead(config)
        self._backbone = FoldedBackbone(self.frame_model.model.pixel_level_module.encoder)
        self.graphs = True
        self._graphs = Graphs(self._frames)
        freeze(self)

    @property
    def device(self) -> torch.device:
        """Where the weights are, and where images have to be."""
        return self.head.decoder_norm.weight.device

    @torch.inference_mode()
    def frames(self, images: Tensor) -> FrameOutput:
        """Frame queries and mask features of a chunk of frames; frames do not see each other.

        Args:
            images: (t, 3, Hp, Wp) float32, normalised and padded (see `Preprocessor`).
        """
        if images.is_cuda and self.graphs:
            state = self.autocast, torch.backends.cudnn.allow_tf32, *state_of(self)
            return FrameOutput(*self._graphs(images, state))
        return FrameOutput(*self._frames(images))

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
        """Video queries, class logits and mask embeddings of B clips.

        Args:
            frame_queries: (B, T, N_f, C) float32.
        """
        with self._narrow():
            output = self.head(frame_queries)
        return VideoOutput(
            video_queries=output.video_queries.float(),
            logits=output.logits.float(),
            mask_embeds=output.mask_embeds.float(),
        )

    def _narrow(self) -> torch.autocast:
        """The context of what may multiply in the narrow type."""
        narrow = self.autocast
        return torch.autocast(self.device.type, dtype=narrow, enabled=narrow is not None)

    def _mask_features(self, finest: Tensor) -> Tensor:
        """VITA's projection of the finest map, (t, C, h, w) -> (t, C_mask, h, w) contiguous.

        As a product: the convolution would keep the map's channels last, for others to reorder.
        """
        projection = self.head.vita_mask_features
        weight = projection.weight.flatten(1).expand(len(finest), -1, -1)  # (t, C_mask, C)
        features = torch.baddbmm(projection.bias[:, None], weight, finest.flatten(2))
        return features.unflatten(2, finest.shape[-2:])
