"""The heads that the demo shows beside the paper's."""

reference = "trajectory"
rows = dict(trajectory="trajectory", select="select")
