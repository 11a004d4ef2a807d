"""Generative models p(s, z, alpha | v) of clean speech, and models of the noise that is added to it."""
