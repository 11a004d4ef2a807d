"""Stochastic variational inference: training of a model/guide pair on clean speech."""
