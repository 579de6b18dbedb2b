"""VidEoMT with DINOv2 large, for OVIS."""

from extract.configs._videomt import *  # noqa: F403

segmenter = dict(type="videomt", num_classes=25)
