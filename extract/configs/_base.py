"""What the published VITA models share: ResNet-50, YouTube-VIS; presets say what differs."""

dataset = "mevis"
segmenter = dict(
    backbone=dict(type="resnet", depth=50),
    num_frame_queries=100,
    num_video_queries=100,
    window_size=6,
    num_classes=40,
)
text = dict(encoder="roberta-base", tagger="en")
resize = dict(short=360, max=1333)  # of the reference's tests
codec = dict(name="lowrank-int8", rank=64)  # an eighth of float16
clips = dict(num=8, frames=10)
