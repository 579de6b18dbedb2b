"""Table 5, Random, Eq. (5): the queries start as learned numbers and also read Q_v."""

model = dict(initialisation="random", decoder_reads=["words", "expression", "video"])
