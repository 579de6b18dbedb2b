"""Command lines, benchmarks and makers of the demo."""

from cache_schema.host.early import quiet_interrupts

quiet_interrupts()
