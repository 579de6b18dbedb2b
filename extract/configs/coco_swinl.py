"""VITA's Swin-L weights for COCO: attention over all frames."""

from extract.configs.ytvis2019_swinl import *  # noqa: F403
from extract.configs.ytvis2019_swinl import segmenter as _ytvis

segmenter = _ytvis | dict(num_classes=80, window_size=0)
resize = dict(short=800, max=1333)
