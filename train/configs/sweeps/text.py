"""How the sentence is pooled."""

reference = "mean"
rows = dict(mean="dmvs", max="sentence_max")
