"""Stage one on the demo world, with the tiny models that the repository ships."""

from pathlib import Path as _Path

_assets = _Path(__file__).parents[1] / "assets"

dataset = "mevis"
segmenter = dict(
    backbone=dict(
        type="swin", embed_dim=32, depths=(1, 1, 2, 1), num_heads=(1, 2, 4, 8), window_size=5
    ),
    num_frame_queries=16,
    num_video_queries=12,
    window_size=4,
    num_classes=60,  # 12 kinds, each doing one of 5 things
    hidden_dim=64,
    mask_dim=64,
    feedforward_dim=256,
    video_feedforward_dim=256,
    pixel_decoder_layers=2,
    decoder_layers=4,
    encoder_layers=3,
    video_decoder_layers=3,
)
text = dict(encoder=str(_assets / "roberta_tiny"), tagger=str(_assets / "stanza_tiny"))
resize = dict(short=None, max=None)
codec = "float16"
clips = dict(num=4, frames=8)
