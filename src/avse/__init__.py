"""avse: probabilistic models for unsupervised audio-visual speech enhancement, in Pyro."""

from avse.enhancement import Enhancement, enhance
from avse.version import __version__
from avse.zoo import PairConfig, load
from avse.zoo.own import Pair
from avse.zoo.pair import SpeechPair

__all__ = ["Enhancement", "Pair", "PairConfig", "SpeechPair", "__version__", "enhance", "load"]
