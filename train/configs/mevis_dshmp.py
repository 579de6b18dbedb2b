"""MeViS with DsHmp over cached frame queries: its threshold, the paper's number of iterations."""

model = dict(type="dshmp")
loss = dict(class_term="per_sample")
optimizer = dict(decay_norms=False)
train = dict(max_iters=40000)
evaluation = dict(sigma=0.5)
