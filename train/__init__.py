"""Stage two: train and evaluate the DMVS head from the cache alone."""

from cache_schema.host.early import quiet_interrupts

quiet_interrupts()
