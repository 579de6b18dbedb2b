"""Heads side by side: what the paper's start, its labels and the order of frames are worth.

All train on the same samples for the same number of iterations.
"""

reference = "dmvs"
rows = dict(
    dmvs_literal="dmvs_literal",
    init_random="init_random",
    init_text="init_text",
    dmvs="dmvs",
    overlap=dict(loss=dict(assignment="overlap")),
    trajectory="trajectory",
    with_frames=["trajectory", dict(model=dict(frame_reading=True))],
    frames_alone=["trajectory", dict(model=dict(tracks=False, frame_reading=True))],
    random_order=["trajectory", dict(model=dict(frame_order="random"))],
    select="select",
)
