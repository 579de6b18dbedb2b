"""MeViS at the paper's 360x640, with VITA's Swin-L weights for OVIS."""

from extract.configs.ovis_swinl import *  # noqa: F403

resize = dict(short=360, max=640)
