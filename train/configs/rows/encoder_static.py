"""Table 4: the sentence reads Q_f with static cues, and Q_v as VITA gives them."""

model = dict(encoder="static")
