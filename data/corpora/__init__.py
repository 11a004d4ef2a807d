"""Corpora: each lists utterances by split and reads nothing until asked."""
