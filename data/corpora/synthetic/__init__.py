"""Synthetic talking faces: speech by espeak-ng with drawn mouths, made without any download."""

from avse.data.corpora.synthetic.corpus import SyntheticCorpus, synthetic_lips, utterance_speech

__all__ = ["SyntheticCorpus", "synthetic_lips", "utterance_speech"]
