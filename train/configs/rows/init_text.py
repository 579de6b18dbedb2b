"""Table 5, Text, Eq. (6): the queries start as the sentence and also read Q_v."""

model = dict(initialisation="text", decoder_reads=["words", "expression", "video"])
