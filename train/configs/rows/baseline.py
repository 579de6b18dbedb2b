"""Table 3, Baseline: random queries read words, sentence and video queries."""

model = dict(
    encoder="none", initialisation="random", decoder_reads=["words", "expression", "video"]
)
