"""Set losses: matching of predictions and targets, and what a matched pair costs."""

from train.losses.classification import Binary, Softmax
from train.losses.criterion import SetCriterion, Targets
from train.losses.matcher import Diverged
from train.losses.vita import VITACriterion

__all__ = ["Binary", "Diverged", "SetCriterion", "Softmax", "Targets", "VITACriterion"]
