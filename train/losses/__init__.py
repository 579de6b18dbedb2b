"""What heads learn from: `criterion.py` is the set loss, `head.py` what a head calls."""

from train.losses.assignment import Diverged
from train.losses.criterion import Binary, SetCriterion, Softmax
from train.losses.head import Criterion, HeadCriterion
from train.losses.points import sample_points
from train.losses.selection import SelectionCriterion
from train.masks.supervision import Supervision
from train.masks.targets import Targets
