"""VITA's ResNet-50 weights for YouTube-VIS 2019."""

from extract.configs._base import *  # noqa: F403
