"""VITA's ResNet-101 weights for YouTube-VIS 2021: the sizes of 2019."""

from extract.configs.ytvis2019_r101 import *  # noqa: F403
