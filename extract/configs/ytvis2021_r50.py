"""VITA's ResNet-50 weights for YouTube-VIS 2021: the sizes of 2019."""

from extract.configs.ytvis2019_r50 import *  # noqa: F403
