"""Amortised guides q(z, alpha | s, v): encoders that answer in one pass."""
