"""Table 4: what the Motion Expression Encoder reads."""

reference = "full"
rows = dict(
    none="encoder_none",
    plain="encoder_plain",
    static="encoder_static",
    motion="encoder_motion",
    full="dmvs",
)
paper = dict(
    none=(46.3, 42.4, 50.2),
    plain=(47.1, 42.9, 51.3),
    static=(47.6, 43.3, 51.9),
    motion=(47.8, 43.5, 52.1),
    full=(48.6, 44.2, 52.9),
)
