"""VITA's Swin-L weights for OVIS."""

from extract.configs.ytvis2019_swinl import *  # noqa: F403
from extract.configs.ytvis2019_swinl import segmenter as _ytvis

segmenter = _ytvis | dict(num_classes=25)
