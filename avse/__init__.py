"""avse: probabilistic models for unsupervised audio-visual speech enhancement, in Pyro."""

from avse.enhance import Enhancement, enhance
from avse.pair import SpeechPair
from avse.version import __version__
from avse.zoo import load

__all__ = ["Enhancement", "SpeechPair", "__version__", "enhance", "load"]
