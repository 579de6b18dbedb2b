"""MeViS at the paper's 360x640, with VITA's published Swin-L weights for OVIS."""

from extract.configs.mevis_r50 import *  # noqa: F403
from extract.configs.mevis_r50 import segmenter as _r50

segmenter = _r50 | dict(
    backbone=dict(
        type="swin",
        embed_dim=192,
        depths=(2, 2, 18, 2),
        num_heads=(6, 12, 24, 48),
        window_size=12,
    ),
    num_frame_queries=200,
)
