"""No mask is drawn: which of the segmenter's own objects are meant."""

model = dict(type="select", num_layers=2, dropout=0.1)
