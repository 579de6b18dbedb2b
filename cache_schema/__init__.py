"""The contract between the two stages: layout, codecs, writer, reader, manifest, fingerprint."""

__version__ = "0.1.0"
