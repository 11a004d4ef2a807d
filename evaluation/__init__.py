"""Measuring and showing: metrics, benchmarks and figures."""
