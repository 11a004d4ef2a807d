"""The protocol `synthetic`: voices of espeak-ng with drawn lips in generated noise."""

from dataclasses import dataclass
from typing import ClassVar, cast

from avse.data.audio import resample
from avse.data.corpora.base import Split, Utterance
from avse.data.lips import Lips
from avse.evaluation.benchmark import RATE, Clip, MixtureSpec, Samples, add_noise
from avse.evaluation.protocols.base import Mixed, chosen_noises, generated_noises


@dataclass(frozen=True, kw_only=True)
class Synthetic(Mixed):
    """The voices of the synthetic corpus of the seed in generated noise; it needs no recordings."""

    levels: tuple[float, ...] = (-5.0, 0.0, 5.0)
    name: ClassVar[str] = "synthetic"

    def mixtures(self) -> list[MixtureSpec]:
        """All sentences of the split with white and pink noise.

        Raises:
            InputError: a noise is not generated.
        """
        clips = [
            Clip(name, name, utterance.speaker, self.split, name)
            for name, utterance in self._utterances().items()
        ]
        noises = generated_noises()
        return self._crossed(clips, chosen_noises(noises, self.noises or tuple(noises), "generated noises"))

    def sounds(self, spec: MixtureSpec) -> tuple[Samples, Samples]:
        """Speech of espeak-ng, and the mixture."""
        samples, rate = self._utterances()[spec.name].load_audio()
        speech = resample(samples, rate, RATE)
        return speech, add_noise(speech, spec)

    def lips(self, spec: MixtureSpec) -> Lips:
        """The drawn lips."""
        load = self._utterances()[spec.name].load_lips
        assert load is not None
        return load()

    def _utterances(self) -> dict[str, Utterance]:
        """The utterances by name, such as "speaker10-3"."""
        from avse.data.corpora.synthetic import SyntheticCorpus

        found: dict[str, Utterance] = {}
        counts: dict[str, int] = {}
        for utterance in SyntheticCorpus(seed=self.seed).utterances(cast(Split, self.split)):
            index = counts[utterance.speaker] = counts.get(utterance.speaker, -1) + 1
            found[f"{utterance.speaker}-{index}"] = utterance
        return found
