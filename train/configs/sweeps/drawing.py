"""The heads of the demo that draw masks: they train in one pass."""

reference = "dmvs"
rows = dict(dmvs="dmvs", trajectory="trajectory")
