"""MeViS with `trajectory`: the schedule of the paper's head, labels by overlap."""

model = dict(type="trajectory", mask_start="segmenter", decoder_start="identity")
loss = dict(assignment="overlap")
train = dict(max_iters=40000)
evaluation = dict(sigma=0.7)
