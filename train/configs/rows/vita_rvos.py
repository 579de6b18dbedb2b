"""Table 3, VITA-RVOS: language queries are decoded over the frame queries, as LMPM does."""

model = dict(encoder="none", initialisation="text", decoder_reads=["frames"])
