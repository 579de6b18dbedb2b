"""VITA: Mask2Former on each frame, its own head over the frames of a video, published weights."""

from extract.segmenters.vita.config import VITAConfig
from extract.segmenters.vita.head import VITAHead
from extract.segmenters.vita.model import VITA
