"""Table 2's joint training: Ref-YouTube-VOS alone, and with pseudo-videos of RefCOCO/+/g.

Caches NAME=PATH: ref_youtube_vos and refcoco; the numbers are samples of each.
"""

reference = "joint"
rows = dict(
    alone=dict(caches=["ref_youtube_vos"]),
    joint=dict(caches=["ref_youtube_vos", "refcoco"], data=dict(cache_weights=[1, 1])),
)
