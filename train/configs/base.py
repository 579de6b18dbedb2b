"""The paper's schedule, which every head trains with; what the paper leaves open follows VITA.

What a config leaves out is taken from here. The other keys of `model`, and those of `loss`, are the
head's own: the keyword arguments of its constructor and of its criterion's, with their defaults.
The number of frames T is that of the cache's clips.
"""

model = dict(type="dmvs")  # a module of train/heads, or "package.module:Class"; see there for keys
data = dict(
    seed=None,  # of the order of samples and of their clips: None takes train.seed
    clip_source="bank",  # or "video": whole-video queries with all or some frames
    num_frames=None,  # of "video" only: None takes all
    frame_choice="random",  # of "video" with num_frames: or "first"
    # Processes that read samples; 0 for the training process itself, which is fastest for most
    # caches on a CPU. None takes 0 there, and with a GPU half of the cores, at most 8.
    num_workers=None,
    cache_weights=[],  # samples from each of several caches; [] draws every expression equally
    mixed_codecs=False,  # True trains on caches whose codecs or ranks differ
    # Queries, clips, objects and words kept in memory, by all workers and caches together; the
    # mask features are not. It changes no number, only the time.
    ram_gb=1.0,
)
optimizer = dict(
    lr=5e-5,
    lr_batch_size=8,  # what lr is meant for; it grows in proportion with train.batch_size
    weight_decay=0.05,
    decay_norms=True,  # False: none on norms and embeddings, as LMPM, DsHmp and VITA have it
    clip_norm=0.01,
    ema_decay=0.0,  # of the average of the weights that is evaluated; 0 keeps none
)
schedule = dict(
    type="step",  # or "poly"
    warmup_iters=0,
    milestones=[28000],  # of "step": where the rate is multiplied by gamma
    gamma=0.1,
    power=0.9,  # of "poly": from lr to 0 over max_iters
)
train = dict(
    max_iters=40000,
    batch_size=8,  # of all ranks together, so that their number changes no sample
    seed=0,
    autocast="none",  # of the head: or "bfloat16", "float16" (on a GPU); the loss is float32
    graphs=True,  # replay the head as CUDA graphs, on one GPU
    # Heads of a sweep that can do it take their steps together, on a GPU. It saves time, takes more
    # memory, and changes numbers by rounding, and what dropout draws.
    together=False,
    log_interval=50,
    checkpoint_interval=2000,
    keep_checkpoints=3,
    val_interval=0,  # iterations between two evaluations on --val-cache; 0 for none
    val_videos=20,  # of it, always the same; the checkpoint with the best J&F is kept as best.pth
    tensorboard=False,
)
evaluation = dict(
    sigma=0.7,
    # "threshold": every query above sigma; "top1": the best one only; "auto": top1 on data sets
    # whose expressions mean one object each (Ref-YouTube-VOS, Ref-DAVIS17, RefCOCO).
    rule="auto",
)
