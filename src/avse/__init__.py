"""avse: probabilistic models for unsupervised audio-visual speech enhancement, in Pyro.

The public names are imported when they are first used, since torch and Pyro take seconds.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from avse.version import __version__

if TYPE_CHECKING:
    from avse.enhancement import Enhancement, enhance
    from avse.many import Outcome, enhance_many
    from avse.story import show
    from avse.stream import Stream
    from avse.zoo.own import Pair
    from avse.zoo.pair import PairConfig, SpeechPair
    from avse.zoo.registry import load

__all__ = [
    "Enhancement",
    "Outcome",
    "Pair",
    "PairConfig",
    "SpeechPair",
    "Stream",
    "__version__",
    "enhance",
    "enhance_many",
    "load",
    "show",
]

_MODULES = {
    "Enhancement": "avse.enhancement",
    "Outcome": "avse.many",
    "Pair": "avse.zoo.own",
    "PairConfig": "avse.zoo.pair",
    "SpeechPair": "avse.zoo.pair",
    "Stream": "avse.stream",
    "enhance": "avse.enhancement",
    "enhance_many": "avse.many",
    "load": "avse.zoo.registry",
    "show": "avse.story",
}
_PARTS = ("data", "guides", "inference", "models", "recording", "zoo")
"""Modules that are there after `import avse` as if they had been imported with it."""


def __getattr__(name: str) -> Any:
    """A public name or a part of the package, imported when it is first used."""
    if name in _MODULES:
        value = getattr(import_module(_MODULES[name]), name)
    elif name in _PARTS:
        import_module("avse.enhancement")  # the modules inside of the part, too
        value = import_module(f"avse.{name}")
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The names that are there and those that will be imported."""
    return sorted({*globals(), *__all__, *_PARTS})
