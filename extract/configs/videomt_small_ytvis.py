"""VidEoMT with DINOv2 small, for YouTube-VIS 2019."""

from extract.configs._videomt import *  # noqa: F403
from extract.configs._videomt import segmenter as _large

segmenter = _large | dict(
    hidden_size=384,
    num_hidden_layers=12,
    num_attention_heads=6,
    num_blocks=3,
)
