"""Table 6: how many motion queries."""

reference = "20"
rows = {
    "10": "queries_10",
    "20": "queries_20",
    "50": "queries_50",
    "100": "queries_100",
}
paper = {
    "10": (47.8, 43.2, 52.4),
    "20": (48.6, 44.2, 52.9),
    "50": (47.3, 42.9, 51.7),
    "100": (46.2, 41.6, 50.8),
}
