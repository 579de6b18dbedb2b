"""MeViS at the paper's 360x640, with VITA's ResNet-101 weights for YouTube-VIS 2019 or 2021."""

from extract.configs import _mevis
from extract.configs.ytvis2021_r101 import *  # noqa: F403

resize, clips = _mevis.resize, _mevis.clips
