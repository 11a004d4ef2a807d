"""Amortised guides q(z, alpha | s, v): encoders."""
