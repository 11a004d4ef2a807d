"""Inference: training of model and guide, posteriors by EM and MCMC, the Wiener-like estimate."""
