"""Which frames and video queries training sees: clips of the bank, or some of the whole video's."""

reference = "bank"
rows = dict(
    bank="dmvs",
    video_4=["clips_video", dict(data=dict(num_frames=4))],
    video_10="clips_video",
    video_all=["clips_video", dict(data=dict(num_frames=None))],
)
