"""The frozen segmenter: VITA, its preprocessing, its masks and its weights."""

from extract.segmenters.config import SegmenterConfig
from extract.segmenters.preprocessing import Preprocessor
from extract.segmenters.vita import VITA
from extract.segmenters.vita_head import VITAHead
from extract.segmenters.weights import load_vita

__all__ = ["VITA", "Preprocessor", "SegmenterConfig", "VITAHead", "load_vita"]
