"""Many heads from one pass over a cache: training, scores, and what they say."""
