"""Variational EM of a recording with a mean-field approximation."""
