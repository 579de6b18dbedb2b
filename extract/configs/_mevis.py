"""What presets for MeViS share: the paper's 360x640, and clips as LMPM and DsHmp draw them."""

resize = dict(short=360, max=640)
clips = dict(num=32, frames=10, range=10)
