"""VidEoMT with DINOv2 large, for OVIS."""

from extract.configs._videomt import *  # noqa: F403
from extract.configs._videomt import segmenter as _large

segmenter = _large | dict(num_classes=25)
