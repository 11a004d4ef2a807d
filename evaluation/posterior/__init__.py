"""Posterior analysis: convergence, predictive checks, credible intervals, model comparison, HTML report."""
