"""From files to tensors: sound, short-time Fourier transform, mixing, corpora and the training frames."""
