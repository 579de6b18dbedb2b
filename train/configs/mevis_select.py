"""MeViS with `select`, from a light cache: the number of iterations of the paper's head.

Nothing of it has been chosen on MeViS: batch and threshold are those of the demo world.
"""

model = dict(type="select", dropout=0.1)
optimizer = dict(lr=5e-4, lr_batch_size=32, clip_norm=1.0)
schedule = dict(type="poly", warmup_iters=500)
train = dict(max_iters=40000, batch_size=32)
evaluation = dict(sigma=0.3)
