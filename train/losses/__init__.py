"""Set losses: matching of predictions and targets, and what a matched pair costs."""

from train.losses.classification import Binary, Softmax
from train.losses.criterion import SetCriterion
from train.losses.matcher import Diverged
from train.losses.points import sample_points
from train.losses.supervision import Supervision, Targets
from train.losses.vita import VITACriterion

__all__ = [
    "Binary",
    "Diverged",
    "SetCriterion",
    "Softmax",
    "Supervision",
    "Targets",
    "VITACriterion",
    "sample_points",
]
