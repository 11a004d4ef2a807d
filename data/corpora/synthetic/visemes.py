"""Lip movement from timed phonemes: four articulation parameters at any time.

Coarticulation follows Cohen and Massaro, "Modeling coarticulation in synthetic visual speech", 1993. A
segment s has a target T_s and a dominance D_s, and the shape is the weighted mean

    F(t) = sum_s D_s(t) T_s / sum_s D_s(t),    D_s(t) = a_s exp(-(d_s(t) / w)^2),

where d_s is the time from t to the core of the segment (its middle), and w is longer before the core than
after it, because lips anticipate a sound. Weights a and targets T depend on the segment and on the
articulator.

Deviations: the exponent is 2, which makes F smooth. A weighted mean of targets never reaches a target, but
lips close in p, b and m. Such a constriction limits the aperture to at most c during its duration, with
smooth flanks: A becomes A - k max(A - c, 0), k rising to 1 before it and falling after it.

Not modelled: stress, speaking style, asymmetry; the tongue and the teeth share one parameter.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

APERTURE, WIDTH, PROTRUSION, TEETH = range(4)
"""The columns of `articulation`; width 1 is spread, protrusion 1 is rounded."""


class Viseme(NamedTuple):
    """A class of phonemes with the same lip shape: targets and weights of aperture, width, protrusion,
    teeth."""

    target: tuple[float, float, float, float]
    weight: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)


# The aperture of vowels follows the height of the tongue. Front vowels spread the lips, back vowels round
# them, close vowels most. Consonants have large weights only for the articulators that they need: t, n, k
# leave the lips to the neighbouring vowels, s needs the jaw, S and w the lips, h nothing. fmt: off
_VISEMES = {
    "rest": Viseme((0.04, 0.45, 0.15, 0.00)),
    "schwa": Viseme((0.38, 0.50, 0.12, 0.35), (0.7, 0.6, 0.5, 0.7)),
    "close front": Viseme((0.28, 1.00, 0.00, 0.75)),  # heed
    "near front": Viseme((0.36, 0.78, 0.05, 0.60), (0.9, 0.9, 0.8, 0.9)),  # hid
    "mid front": Viseme((0.58, 0.72, 0.05, 0.50)),  # head
    "open": Viseme((0.95, 0.62, 0.05, 0.40)),  # had
    "open back": Viseme((1.00, 0.42, 0.12, 0.25)),  # hard
    "mid": Viseme((0.68, 0.50, 0.12, 0.35)),  # hut
    "round open": Viseme((0.85, 0.25, 0.55, 0.15)),  # hot, hoard
    "round mid": Viseme((0.48, 0.15, 0.80, 0.08)),  # the start of a pure o
    "round near": Viseme((0.34, 0.22, 0.65, 0.12)),  # hood
    "round close": Viseme((0.20, 0.05, 1.00, 0.00), (1.0, 1.5, 1.5, 1.0)),  # who'd
    "bilabial": Viseme((0.00, 0.45, 0.12, 0.00), (0.2, 0.3, 0.2, 0.3)),  # p b m
    "labiodental": Viseme((0.14, 0.55, 0.05, 1.00), (1.5, 0.4, 0.4, 3.0)),  # f v
    "dental": Viseme((0.26, 0.52, 0.10, 0.70), (1.0, 0.4, 0.3, 1.0)),  # thin, this
    "alveolar": Viseme((0.26, 0.58, 0.10, 0.60), (0.6, 0.3, 0.2, 0.6)),  # t d n
    "lateral": Viseme((0.36, 0.52, 0.10, 0.35), (0.6, 0.3, 0.2, 0.6)),  # l
    "sibilant": Viseme((0.17, 0.70, 0.05, 1.00), (1.5, 0.6, 0.4, 2.0)),  # s z
    "hushing": Viseme((0.24, 0.20, 0.75, 0.90), (1.5, 1.2, 1.5, 1.5)),  # ship, chip, jet
    "retroflex": Viseme((0.26, 0.30, 0.60, 0.30), (0.7, 0.6, 0.8, 0.6)),  # r
    "velar": Viseme((0.34, 0.50, 0.12, 0.30), (0.4, 0.2, 0.2, 0.4)),  # k g ng
    "breath": Viseme((0.45, 0.50, 0.12, 0.30), (0.1, 0.1, 0.1, 0.1)),  # h
    "palatal": Viseme((0.26, 0.80, 0.05, 0.60), (0.7, 0.7, 0.6, 0.7)),  # yes
    "labiovelar": Viseme((0.10, 0.00, 1.00, 0.00), (1.5, 2.0, 2.0, 1.0)),  # w
}

# espeak-ng mnemonics by their sequence of visemes. An unlisted mnemonic is treated as its longest listed
# prefix ("r-" is an r), or as a schwa if there is none.
_SOUNDS = {
    ("rest",): "_",
    ("schwa",): "@ a# I# 3",
    ("close front",): "i i:",
    ("near front",): "I I2 y Y",
    ("mid front",): "e E",
    ("open",): "a aa &",
    ("open back",): "A A:",
    ("mid",): "V 3: @2",
    ("round open",): "0 O O: O2",
    ("round mid",): "o o:",
    ("round near",): "U",
    ("round close",): "u u:",
    ("open", "near front"): "aI aI2",
    ("open", "round near"): "aU",
    ("mid front", "near front"): "eI",
    ("round open", "near front"): "OI",
    ("round mid", "round close"): "oU",
    ("open back", "schwa"): "A@",
    ("mid front", "schwa"): "e@",
    ("near front", "schwa"): "i@ i@3",
    ("round open", "schwa"): "O@ o@",
    ("round near", "schwa"): "U@",
    ("mid", "retroflex"): "VR",
    ("schwa", "lateral"): "@L",
    ("bilabial",): "p b m",
    ("labiodental",): "f v",
    ("dental",): "T D",
    ("alveolar",): "t d n *",
    ("lateral",): "l L",
    ("sibilant",): "s z",
    ("hushing",): "S Z tS dZ",
    ("retroflex",): "r R",
    ("velar",): "k g N x",
    ("breath",): "h ?",
    ("palatal",): "j ; C",
    ("labiovelar",): "w W",
}
# fmt: on
_VISEMES_OF = {symbol: names for names, symbols in _SOUNDS.items() for symbol in symbols.split()}

# Scale w of the dominance in s before and after the core, by articulator. Rounding extends furthest.
_BEFORE = np.array([0.055, 0.080, 0.110, 0.050])
_AFTER = np.array([0.050, 0.060, 0.065, 0.045])
_MARGIN = 0.05  # from the ends of a segment to its core, at most; of a short segment it is a quarter
_PAUSE = 0.2  # shorter pauses relax the lips in proportion

_LIMITED = {"p": 0.0, "b": 0.0, "m": 0.0, "f": 0.16, "v": 0.16}
# From how long before its start an event is constricted, to how long before its end. A p bursts as it
# starts. The events of b and m hold their voiced closure; a short b, after silence, is all burst.
_LEAD = {"p": 0.045, "b": 0.035, "m": 0.035, "f": 0.0, "v": 0.0}
_RELEASE = {"b": 0.025, "m": 0.01, "f": 0.015, "v": 0.01}
_CLOSING, _OPENING = 0.055, 0.045  # s, duration of the flanks


def visemes(symbol: str) -> tuple[str, ...]:
    """Names of the one or two visemes of an espeak-ng mnemonic without stress marks."""
    prefixes = (symbol[:length] for length in range(len(symbol), 0, -1))
    return next((_VISEMES_OF[start] for start in prefixes if start in _VISEMES_OF), ("schwa",))


def articulation(phonemes: Sequence[tuple[str, float]], duration: float, times: Floats) -> Floats:
    """Aperture, width, protrusion and visibility of the teeth, each in [0, 1], as columns (T, 4).

    Args:
        phonemes: espeak-ng mnemonics and their starts in s, strictly increasing, below `duration`; at
            least one. Each lasts until the next.
        duration: s, the end of the last phoneme.
        times: s, (T,), in any order; the shape is held before the first phoneme and after the last.
    """
    times = np.clip(times, phonemes[0][1], duration)
    weighted_targets, weights = np.zeros((2, len(times), 4))
    ends = [*(start for _, start in phonemes[1:]), duration]
    for (symbol, start), end in zip(phonemes, ends, strict=True):
        names = visemes(symbol)
        for name, core in zip(names, _cores(start, end, len(names)), strict=True):
            weight = np.array(_VISEMES[name].weight)
            if name == "rest":
                weight = weight * min(1.0, (end - start) / _PAUSE)
            dominance = weight * _dominance(times, *core)
            weighted_targets += dominance * np.array(_VISEMES[name].target)
            weights += dominance
    shape = weighted_targets / weights
    aperture = shape[:, APERTURE]
    for (symbol, start), end in zip(phonemes, ends, strict=True):
        if (kind := symbol[:1]) in _LIMITED:
            first = start - _LEAD[kind]
            last = max(start, end - _RELEASE[kind]) if kind in _RELEASE else start
            hold = _smoothstep((times - first) / _CLOSING + 1) * _smoothstep(1 - (times - last) / _OPENING)
            aperture -= hold * np.maximum(aperture - _LIMITED[kind], 0)
    return shape


def _cores(start: float, end: float, parts: int) -> list[tuple[float, float]]:
    """First and last time of the core of each part: no time between two cores is far from both."""
    margin = min(_MARGIN, (end - start) / 4 / parts)
    edges = np.linspace(start, end, parts + 1)
    return [(float(low) + margin, float(high) - margin) for low, high in pairwise(edges)]


def _dominance(times: Floats, first: float, last: float) -> Floats:
    """exp(-(d/w)^2) of each articulator, (T, 4), for the core from `first` to `last`."""
    before = np.maximum(first - times, 0)[:, None] / _BEFORE
    after = np.maximum(times - last, 0)[:, None] / _AFTER
    return np.exp(-(before**2) - after**2)


def _smoothstep(x: Floats) -> Floats:
    """0 below 0, 1 above 1, and smooth between."""
    x = np.clip(x, 0, 1)
    return x * x * (3 - 2 * x)
