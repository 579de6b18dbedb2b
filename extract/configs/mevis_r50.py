"""MeViS at the paper's 360x640, with VITA's published ResNet-50 weights for OVIS."""

dataset = "mevis"
segmenter = dict(
    backbone=dict(type="resnet", depth=50),
    num_frame_queries=100,
    num_video_queries=100,
    window_size=6,
    num_classes=25,
    hidden_dim=256,
    mask_dim=256,
    feedforward_dim=2048,
    video_feedforward_dim=2048,
    pixel_decoder_layers=6,
    decoder_layers=10,
    encoder_layers=6,
    video_decoder_layers=3,
)
text = dict(encoder="roberta-base", tagger="en")
resize = dict(short=360, max=640)
codec = "float16"
clips = dict(num=8, frames=10)
