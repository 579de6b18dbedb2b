"""The contract between the two stages: layout, codecs, writer, reader, manifest, fingerprint."""

from cache_schema.host.early import quiet_interrupts

__version__ = "0.1.0"

quiet_interrupts()
