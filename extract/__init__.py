"""Stage one: run a frozen segmenter once over each video and write what it said to the cache."""

from cache_schema.host.early import quiet_interrupts

quiet_interrupts()
