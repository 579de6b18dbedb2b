"""The demo world with a tiny VidEoMT, `assets/videomt_tiny`."""

from extract.configs.demo import *  # noqa: F403

segmenter = dict(
    type="videomt",
    num_classes=60,
    hidden_size=128,
    num_hidden_layers=5,
    num_attention_heads=4,
    num_blocks=3,
    num_queries=16,
    image_size=128,
    patch_size=8,
    num_upscale_blocks=1,
    num_register_tokens=0,
    keep=12,
)
resize = None
