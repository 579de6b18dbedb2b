"""The sizes of a VITA: one dataclass, and the Mask2Former configuration that follows from it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from transformers import Mask2FormerConfig, ResNetConfig, SwinConfig
from transformers.utils import logging

from cache_schema.host.cli import InputError
from cache_schema.host.keys import Key, checked, fill

# Blocks a stage, by the depth in the name of the network.
RESNET_DEPTHS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
STAGES = ["stage1", "stage2", "stage3", "stage4"]
# The reference never passes its configured width to the pixel decoder: it is always 1024 there.
PIXEL_DECODER_FEEDFORWARD = 1024
# Group normalisation in the pixel decoder has 32 groups.
GROUPS = 32
#: What a size of a model may be, and a number of layers.
SIZE, LAYERS = (1, 1 << 16), (1, 256)
#: What a `backbone` may say beside its type.
BACKBONES = {
    "swin": {
        "embed_dim": Key(hint=int, limits=SIZE),
        "depths": Key(hint=tuple[int, int, int, int], limits=LAYERS),
        "num_heads": Key(hint=tuple[int, int, int, int], limits=SIZE),
        "window_size": Key(hint=int, limits=SIZE),
    },
    "resnet": {
        "depth": Key(hint=int, choices=tuple(RESNET_DEPTHS)),
        "stem_channels": Key(64, limits=SIZE),
        "res2_channels": Key(256, limits=SIZE),
    },
}


@dataclass(frozen=True)
class VITAConfig:
    """Sizes of a VITA, by the names of its paper and of its published configurations.

    Attributes:
        backbone: ``{"type": "swin", "embed_dim", "depths", "num_heads", "window_size"}`` or
            ``{"type": "resnet", "depth": 50 | 101}`` (optional: ``stem_channels`` 64,
            ``res2_channels`` 256).
        num_frame_queries: N_f, queries of the frame-level Mask2Former.
        num_video_queries: N_v, queries of the Object Decoder.
        window_size: frames in a window of the Object Encoder; 0 attends over all frames at once.
        num_classes: K, without the no-object class.
        hidden_dim: C, channels of queries and of the pixel decoder.
        mask_dim: channels of mask features and mask embeddings.
        num_heads: heads of every attention outside the backbone.
        feedforward_dim: width of the feed-forward layers of the frame-level decoder.
        video_feedforward_dim: the same of the Object Encoder and Decoder.
        pixel_decoder_layers: deformable layers of the pixel decoder.
        decoder_layers: the reference's DEC_LAYERS, which counts the learned queries as a layer:
            10 are 9 attention layers.
        encoder_layers: layers of the Object Encoder (the reference's ENC_LAYERS).
        video_decoder_layers: layers of the Object Decoder.
        pixel_mean, pixel_std: normalisation of RGB values from 0 to 255.

    Raises:
        InputError: a size that cannot be built, or a backbone with missing or unknown keys.
    """

    backbone: Mapping[str, Any]
    num_frame_queries: int
    num_video_queries: int
    window_size: int
    num_classes: int
    hidden_dim: int = 256
    mask_dim: int = 256
    num_heads: int = 8
    feedforward_dim: int = 2048
    video_feedforward_dim: int = 2048
    pixel_decoder_layers: int = 6
    decoder_layers: int = 10
    encoder_layers: int = 6
    video_decoder_layers: int = 3
    pixel_mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    pixel_std: tuple[float, float, float] = (58.395, 57.12, 57.375)

    RANGES: ClassVar = {
        **dict.fromkeys(("num_frame_queries", "num_video_queries", "num_classes"), SIZE),
        **dict.fromkeys(("hidden_dim", "mask_dim", "num_heads"), SIZE),
        **dict.fromkeys(("feedforward_dim", "video_feedforward_dim"), SIZE),
        "window_size": (0, 1 << 16),
        **dict.fromkeys(("pixel_decoder_layers", "encoder_layers", "video_decoder_layers"), LAYERS),
        "decoder_layers": (2, 256),
        "pixel_mean": (-1e6, 1e6),
        "pixel_std": (1e-6, 1e6),
    }

    def __post_init__(self) -> None:
        backbone = self.backbone
        if not isinstance(backbone, Mapping) or backbone.get("type") not in list(BACKBONES):
            raise InputError(
                f"segmenter.backbone is {backbone!r:.80}: give a dict with type 'swin' or 'resnet'"
            )
        known = {"type": Key(), **BACKBONES[backbone["type"]]}
        fill(checked(backbone, known, "segmenter.backbone"), known, "segmenter.backbone")
        if self.hidden_dim % GROUPS or self.hidden_dim % self.num_heads:
            raise InputError(
                f"segmenter.hidden_dim is {self.hidden_dim}: give a multiple of {GROUPS} "
                f"and of num_heads ({self.num_heads})"
            )

    def mask2former(self) -> Mask2FormerConfig:
        """The configuration of the frame-level Mask2Former in `transformers`."""
        backbone = _swin if self.backbone["type"] == "swin" else _resnet
        verbosity = logging.get_verbosity()
        logging.set_verbosity_error()  # it warns of every backbone but Swin; ours are tested
        try:
            return self._mask2former(backbone(self.backbone))
        finally:
            logging.set_verbosity(verbosity)

    def _mask2former(self, backbone: SwinConfig | ResNetConfig) -> Mask2FormerConfig:
        return Mask2FormerConfig(
            backbone_config=backbone,
            feature_size=self.hidden_dim,
            mask_feature_size=self.mask_dim,
            hidden_dim=self.hidden_dim,
            encoder_feedforward_dim=PIXEL_DECODER_FEEDFORWARD,
            encoder_layers=self.pixel_decoder_layers,
            decoder_layers=self.decoder_layers,
            num_attention_heads=self.num_heads,
            dim_feedforward=self.feedforward_dim,
            num_queries=self.num_frame_queries,
            num_labels=self.num_classes,
            output_auxiliary_logits=False,
        )


def _swin(backbone: Mapping[str, Any]) -> SwinConfig:
    return SwinConfig(
        embed_dim=backbone["embed_dim"],
        depths=list(backbone["depths"]),
        num_heads=list(backbone["num_heads"]),
        window_size=backbone["window_size"],
        drop_path_rate=0.0,
        out_features=STAGES,
    )


def _resnet(backbone: Mapping[str, Any]) -> ResNetConfig:
    res2_channels = backbone.get("res2_channels", 256)
    return ResNetConfig(
        embedding_size=backbone.get("stem_channels", 64),
        hidden_sizes=[res2_channels * 2**stage for stage in range(4)],
        depths=list(RESNET_DEPTHS[backbone["depth"]]),
        # The reference puts the stride into the 3x3 convolution.
        downsample_in_bottleneck=False,
        out_features=STAGES,
    )
