"""Stage two: train and evaluate the DMVS head from the cache alone."""
