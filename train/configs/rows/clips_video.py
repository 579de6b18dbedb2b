"""Training on whole-video queries with ten frames, instead of on clips of the bank."""

data = dict(clip_source="video", num_frames=10)
