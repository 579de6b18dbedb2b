"""VITA's Swin-L weights for YouTube-VIS 2019."""

from extract.configs._swin import LARGE as _LARGE
from extract.configs.ytvis2019_r50 import *  # noqa: F403
from extract.configs.ytvis2019_r50 import segmenter as _r50

segmenter = _r50 | dict(backbone=_LARGE, num_frame_queries=200)
resize = dict(short=448, max=1333)
