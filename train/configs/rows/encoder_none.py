"""Tables 3 and 4, Baseline + MQI: no Motion Expression Encoder, F_me is the sentence."""

model = dict(encoder="none")
