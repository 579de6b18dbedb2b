"""Tables 3 to 6 on the demo world, whose segmenter has 12 video queries and whose N_m is 6."""

reference = "dmvs"
rows = {
    "vita_rvos": "vita_rvos",
    "baseline": "baseline",
    "mqi": "encoder_none",
    "encoder_plain": "encoder_plain",
    "encoder_static": "encoder_static",
    "encoder_motion": "encoder_motion",
    "init_random": "init_random",
    "init_text": "init_text",
    "queries_3": dict(model=dict(num_motion_queries=3)),
    "queries_9": dict(model=dict(num_motion_queries=9)),
    "queries_12": dict(model=dict(num_motion_queries=12)),
    "dmvs": "dmvs",
}
