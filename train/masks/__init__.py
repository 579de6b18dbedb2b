"""Mask logits and true masks at points, as fast as the machine has them.

Nothing here is needed to understand a loss: `tests/train/plain_loss.py` says in a page what is
computed. `logits.py` is the torch side of the codecs, which replay uses as well; the rest is for
training and stands here for its speed, which `train/MEASUREMENTS.md` has in figures.
"""
