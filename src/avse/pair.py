"""Former place of `avse.zoo.pair`."""

from avse.zoo.pair import PairConfig, SpeechPair, load_folder

__all__ = ["PairConfig", "SpeechPair", "load_folder"]
