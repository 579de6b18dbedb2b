"""Table 4: the sentence reads Q_f and Q_v as VITA gives them."""

model = dict(encoder="plain")
