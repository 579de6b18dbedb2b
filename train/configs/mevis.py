"""MeViS, as in the paper: 40,000 iterations on clips of the bank, every query over 0.7."""

train = dict(max_iters=40000)
evaluation = dict(sigma=0.7)
