"""Clips and expressions from the cache as tensors."""

from train.data.batch import Batch, Sample, collate, video_batch
from train.data.dataset import ClipDataset
from train.data.mixture import CounterBatches
from train.data.staging import Stager, Staging
