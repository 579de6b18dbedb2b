"""Table 6, N_m = 20."""

model = dict(num_motion_queries=20)
