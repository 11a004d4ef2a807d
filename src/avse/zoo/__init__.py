"""Trained model/guide pairs: how they are built, trained, saved, loaded and listed."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from avse.zoo.shipped import shipped  # now, as the module of that name would take its place

if TYPE_CHECKING:
    from avse.zoo.pair import PairConfig, SpeechPair
    from avse.zoo.registry import load

__all__ = ["PairConfig", "SpeechPair", "load", "shipped"]

_MODULES = {"PairConfig": "avse.zoo.pair", "SpeechPair": "avse.zoo.pair", "load": "avse.zoo.registry"}


def __getattr__(name: str) -> Any:
    """A name that needs torch, imported when it is first used."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_MODULES[name]), name)
    globals()[name] = value
    return value
