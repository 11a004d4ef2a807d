"""Neural networks that give the parameters of distributions: of spectra and of lips."""
