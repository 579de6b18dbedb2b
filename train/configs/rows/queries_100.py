"""Table 6, N_m = 100."""

model = dict(num_motion_queries=100)
