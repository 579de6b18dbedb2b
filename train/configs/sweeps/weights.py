"""Table 7: the data that VITA was trained on, as caches NAME=PATH for training and evaluation."""

reference = "ovis"
rows = dict(
    ytvis_2019=dict(caches=["ytvis_2019"]),
    ytvis_2021=dict(caches=["ytvis_2021"]),
    ovis=dict(caches=["ovis"]),
)
paper = dict(
    ytvis_2019=(45.4, 42.2, 48.6),
    ytvis_2021=(46.7, 43.1, 50.3),
    ovis=(48.6, 44.2, 52.9),
)
