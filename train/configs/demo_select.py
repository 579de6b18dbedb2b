"""The demo world with `select`: more samples than heads that draw masks can have in that time."""

model = dict(
    type="select",
    hidden_dim=64,
    num_motion_queries=6,  # scenes hold at most five objects
    num_layers=2,
    num_heads=4,
    feedforward_dim=256,
    dropout=0.1,
)
optimizer = dict(lr=2e-3, lr_batch_size=32, clip_norm=1.0)
schedule = dict(type="poly", warmup_iters=50)
train = dict(max_iters=2000, batch_size=32, checkpoint_interval=500)
evaluation = dict(sigma=0.3)
