"""Command lines, benchmarks and makers of the demo."""

from cache_schema.early import quiet_interrupts

quiet_interrupts()
