"""The contract between the two stages: layout, codecs, writer, reader, manifest, fingerprint."""
