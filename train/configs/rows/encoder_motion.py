"""Table 4: the sentence reads Q_f as VITA gives them, and Q_v with motion cues."""

model = dict(encoder="motion")
