"""What a person uses from Python: samples, heads, replay, predictions. See the README."""

from train.data import ClipDataset, collate
from train.data.batch import video_batch
from train.data.sizes import common_sizes
from train.heads import CacheSizes, Head, HeadInputs, HeadOutput, find_head
from train.predictions import Predictions, PredictionsWriter
from train.replay import keep, replay
