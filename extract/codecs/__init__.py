"""Coding the mask features with torch: fitting a basis, encoding, what it costs, tracks."""
