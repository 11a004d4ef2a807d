"""Models with algorithms as what `avse.evaluation.runner` evaluates."""

from functools import lru_cache
from pathlib import Path
from typing import Any

import avse.zoo as zoo
from avse.data.lips import Lips
from avse.enhancement import enhance
from avse.evaluation.benchmark import RATE, MixtureSpec, Samples
from avse.inference.algorithm import Algorithm
from avse.inference.presets import algorithm_named
from avse.recording import pair_named
from avse.zoo.pair import SpeechPair

AUTOMATIC = ("a-vae", "vae-mm")
"""What "auto" chooses from: without lips, with lips."""


class EnhancementSystem:
    """`avse.enhance` with a model and an algorithm.

    Args:
        model: name in the zoo, folder of a saved pair, or a loaded pair; "auto" takes the default model.
        algorithm: a name in `avse.inference.presets.PRESETS` or an algorithm object; "auto" takes the
            model's own.
        name: by which tables call the model; by default its name, or the path that is given.
        algorithm_name: by which tables call the algorithm; by default its name or class.

    Raises:
        InputError: an unknown model or algorithm, or a damaged folder.
    """

    def __init__(
        self,
        model: str | Path | SpeechPair,
        algorithm: str | Algorithm = "auto",
        name: str | None = None,
        algorithm_name: str | None = None,
    ) -> None:
        self._source = str(model) if isinstance(model, Path) else model
        self._algorithm = algorithm
        self.model = name or (self._source if isinstance(self._source, str) else self._source.name)
        own = algorithm if isinstance(algorithm, str) else type(algorithm).__name__
        self.algorithm = algorithm_name or own
        pairs = [pair_named(each) for each in (AUTOMATIC if self._source == "auto" else (self._source,))]
        self.uses_lips = any(pair.config.lips is not None for pair in pairs)
        self.weights = "+".join(pair.fingerprint() for pair in pairs)
        resolved = [algorithm_named(algorithm, pair.algorithm) for pair in pairs]
        self.settings: dict[str, Any] = {
            "algorithm": [found for _, found in resolved],
            "algorithm_settings": [repr(found) for found, _ in resolved],
            "front_end": [repr(pair.config.front_end) for pair in pairs],
            "lips": [repr(pair.config.lips) for pair in pairs],
        }

    def __call__(self, noisy: Samples, lips: Lips | None, spec: MixtureSpec) -> Samples:
        """Speech (T,) of a mixture (T,) at 16 kHz."""
        model: str | SpeechPair = self._source
        if isinstance(model, str) and model != "auto":
            model = _loaded(model)
        return enhance(noisy, RATE, video=lips, model=model, algorithm=self._algorithm, seed=spec.seed).speech


@lru_cache(maxsize=16)
def _loaded(model: str) -> SpeechPair:
    """A pair, read once a process: the time of an enhancement is not that of reading files."""
    return zoo.load(model)
