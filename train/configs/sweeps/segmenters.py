"""What the frozen segmenter is worth: the demo's VITA and VidEoMT, as caches NAME=PATH.

Each head has the width of its segmenter's queries, so that it starts from that one's own masks.
"""

reference = "vita"
rows = dict(
    vita=dict(caches=["vita"]),
    videomt=dict(caches=["videomt"], model=dict(hidden_dim=128, mask_dim=128)),
    videomt_frames=dict(
        caches=["videomt"], model=dict(hidden_dim=128, mask_dim=128, mask_start="frames")
    ),
    vita_select=["select", dict(caches=["vita"])],
    videomt_select=["select", dict(caches=["videomt"], model=dict(hidden_dim=128))],
)
