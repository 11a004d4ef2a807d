"""Markov chain Monte Carlo: transition kernels, chains of all frames, and Pyro's own MCMC."""
