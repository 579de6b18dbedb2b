"""The paper's head and the one that knows the order of frames, in one pass."""

reference = "dmvs"
rows = dict(dmvs="dmvs", trajectory="trajectory")
