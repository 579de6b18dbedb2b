"""The DMVS head: everything that learns."""

from train.models.dmvs import DMVS, HeadInputs, HeadOutput

__all__ = ["DMVS", "HeadInputs", "HeadOutput"]
