"""The report of an evaluation: figures, tables, the worst mixtures and one HTML page."""
