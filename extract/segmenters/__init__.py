"""Frozen segmenters behind one seam, `base`; preprocessing and masks that any of them shares."""

#: ``segmenter.type`` of configurations that do not say it.
DEFAULT = "vita"
