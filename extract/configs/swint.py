"""A VITA on Swin-T for weights of your own; set num_classes to those that it was trained on."""

from extract.configs._base import *  # noqa: F403
from extract.configs._base import segmenter as _r50
from extract.configs._swin import TINY as _TINY

segmenter = _r50 | dict(backbone=_TINY)
