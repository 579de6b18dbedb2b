"""VITA's Swin-L weights for YouTube-VIS 2021: the sizes of 2019."""

from extract.configs.ytvis2019_swinl import *  # noqa: F403
