"""VidEoMT with DINOv2 large, for YouTube-VIS 2019, 2021 or 2022."""

from extract.configs._videomt import *  # noqa: F403
