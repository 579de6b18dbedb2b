"""The demo world: a small head for the shipped tiny models, minutes on two cores."""

model = dict(
    hidden_dim=64,
    text_dim=64,
    mask_dim=64,
    num_motion_queries=12,
    num_layers=3,
    num_heads=4,
    feedforward_dim=256,
)
loss = dict(num_points=256)
optimizer = dict(lr=5e-4, clip_norm=1.0)
schedule = dict(warmup_iters=20, milestones=[750])
train = dict(max_iters=1000, batch_size=16, checkpoint_interval=250)
