"""Trained model/guide pairs: how they are built, trained, saved, loaded and listed."""

from avse.zoo.pair import PairConfig, SpeechPair
from avse.zoo.registry import load, shipped

__all__ = ["PairConfig", "SpeechPair", "load", "shipped"]
