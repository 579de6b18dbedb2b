"""DsHmp over cached frame queries, trained as its code does."""

model = dict(type="dshmp")
loss = dict(class_term="per_sample")
optimizer = dict(decay_norms=False)
