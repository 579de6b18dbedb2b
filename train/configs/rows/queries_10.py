"""Table 6, N_m = 10."""

model = dict(num_motion_queries=10)
