"""VITA's ResNet-101 weights for YouTube-VIS 2019."""

from extract.configs.ytvis2019_r50 import *  # noqa: F403
from extract.configs.ytvis2019_r50 import segmenter as _r50

segmenter = _r50 | dict(backbone=dict(type="resnet", depth=101))
