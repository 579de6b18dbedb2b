"""The paper's head: Baseline + MQI + MEE, Video, N_m = 20. Nothing differs."""
