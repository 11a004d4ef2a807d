"""Expectation-maximisation: the loop, its M-steps, initial values, and Monte Carlo EM of a recording."""
