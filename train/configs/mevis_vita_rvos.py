"""MeViS with LMPM over cached frame queries: its threshold, the paper's number of iterations."""

model = dict(type="vita_rvos")
loss = dict(class_term="per_sample")
optimizer = dict(decay_norms=False)
train = dict(max_iters=40000)
evaluation = dict(sigma=0.8)
