"""Table 3: the parts of DMVS, one after the other."""

reference = "mqi_mee"
rows = dict(
    vita_rvos="vita_rvos",
    baseline="baseline",
    mqi="encoder_none",
    mqi_mee="dmvs",
)
paper = dict(
    vita_rvos=(39.7, 36.6, 42.8),
    baseline=(44.2, 40.7, 47.7),
    mqi=(46.3, 42.4, 50.2),
    mqi_mee=(48.6, 44.2, 52.9),
)
