"""What the published VidEoMT models share: the large one, YouTube-VIS; presets say what differs."""

from extract.configs._base import *  # noqa: F403

segmenter = dict(type="videomt", num_classes=40)
resize = None  # to squares of segmenter.image_size
