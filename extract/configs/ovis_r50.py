"""VITA's ResNet-50 weights for OVIS."""

from extract.configs.ytvis2019_r50 import *  # noqa: F403
from extract.configs.ytvis2019_r50 import segmenter as _ytvis

segmenter = _ytvis | dict(num_classes=25)
