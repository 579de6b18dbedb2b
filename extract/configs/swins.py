"""A VITA on Swin-S for weights of your own; set num_classes to those that it was trained on."""

from extract.configs._base import *  # noqa: F403
from extract.configs._base import segmenter as _r50
from extract.configs._swin import SMALL as _SMALL

segmenter = _r50 | dict(backbone=_SMALL)
