"""MeViS at the paper's 360x640, with VITA's ResNet-50 weights for OVIS."""

from extract.configs import _mevis
from extract.configs.ovis_r50 import *  # noqa: F403

resize, clips = _mevis.resize, _mevis.clips
