"""Table 3, VITA-RVOS: LMPM over cached frame queries, trained as its code does."""

model = dict(type="vita_rvos")
loss = dict(class_term="per_sample")
optimizer = dict(decay_norms=False)
