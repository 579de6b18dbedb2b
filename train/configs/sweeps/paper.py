"""Tables 3 to 6 together: every row once."""

reference = "dmvs"
rows = dict(
    vita_rvos="vita_rvos",
    baseline="baseline",
    mqi="encoder_none",
    encoder_plain="encoder_plain",
    encoder_static="encoder_static",
    encoder_motion="encoder_motion",
    init_random="init_random",
    init_text="init_text",
    queries_10="queries_10",
    queries_50="queries_50",
    queries_100="queries_100",
    dmvs="dmvs",
)
paper = dict(
    vita_rvos=(39.7, 36.6, 42.8),
    baseline=(44.2, 40.7, 47.7),
    mqi=(46.3, 42.4, 50.2),
    encoder_plain=(47.1, 42.9, 51.3),
    encoder_static=(47.6, 43.3, 51.9),
    encoder_motion=(47.8, 43.5, 52.1),
    init_random=(46.5, 41.8, 51.2),
    init_text=(46.8, 42.6, 51.0),
    queries_10=(47.8, 43.2, 52.4),
    queries_50=(47.3, 42.9, 51.7),
    queries_100=(46.2, 41.6, 50.8),
    dmvs=(48.6, 44.2, 52.9),
)
