"""Synthetic talking faces: espeak-ng speech with drawn mouths; no download is needed."""

from avse.data.corpora.synthetic.corpus import SyntheticCorpus, synthetic_lips, utterance_speech

__all__ = ["SyntheticCorpus", "synthetic_lips", "utterance_speech"]
