"""Table 6, N_m = 50."""

model = dict(num_motion_queries=50)
