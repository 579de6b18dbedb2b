"""Training configs: pure-Python files that set what differs from `base`."""
