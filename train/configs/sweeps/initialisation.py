"""Table 5: where motion queries start."""

reference = "video"
rows = dict(
    random="init_random",
    text="init_text",
    video="dmvs",
)
paper = dict(
    random=(46.5, 41.8, 51.2),
    text=(46.8, 42.6, 51.0),
    video=(48.6, 44.2, 52.9),
)
