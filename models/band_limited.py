"""A speech model of which only the lowest bins of the spectrum are observed."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from avse.models.alpha_chain import AlphaChain
from avse.models.base import ConditionedSpeech, Evaluation, SpeechModel, chooses_models
from avse.models.coupling import Coupling


class BandLimited(SpeechModel):
    """The lowest bins of another model; a recording of low sample rate does not contain the others.

    Args:
        speech: model of F bins.
        bins: number of observed bins.
    """

    def __init__(self, speech: SpeechModel, bins: int) -> None:
        super().__init__()
        self.speech = speech
        self.bins = bins

    def latent(self, visual: Tensor | None = None) -> Tensor:
        """Log variance of the observed bins, (*, N, bins)."""
        return self.speech.latent(visual)[..., : self.bins]

    def latent_program(self, visual: Tensor | None, frames: Sequence[int]) -> Tensor:
        """That of the wrapped model, without the bins that are not observed."""
        return self.speech.latent_program(visual, frames)[..., : self.bins]

    @property
    def coupling(self) -> Coupling:
        """That of the wrapped model."""
        return self.speech.coupling

    def component_models(self) -> list[SpeechModel]:
        """Those of the wrapped model, each with the observed bins."""
        models = self.speech.component_models() if chooses_models(self.speech) else []
        return [BandLimited(component, self.bins) for component in models]

    def log_alpha(self, visual: Tensor | None = None) -> Tensor | None:
        """That of the wrapped model."""
        return self.speech.log_alpha(visual)

    def alpha_chain(self, visual: Tensor | None = None) -> AlphaChain | None:
        """That of the wrapped model."""
        return self.speech.alpha_chain(visual)

    def alpha_logit(self, visual: Tensor | None = None) -> Tensor | None:
        """That of the wrapped model."""
        return self.speech.alpha_logit(visual)

    def closed_form(self, visual: Tensor | None = None) -> ConditionedSpeech:
        """As `SpeechModel.closed_form`, from `given` of the wrapped model."""
        return ObservedBins(self.speech.given(visual), self.bins)


@dataclass(frozen=True)
class ObservedBins(ConditionedSpeech):
    """The lowest bins of another conditioned model.

    Args:
        speech: conditioned model of all bins.
        bins: number of observed bins.
    """

    speech: ConditionedSpeech
    bins: int

    def __call__(self, z: Tensor) -> Evaluation:
        """As `ConditionedSpeech.__call__`."""
        log_prior, log_variance = self.speech(z)
        return Evaluation(log_prior, log_variance[..., : self.bins])

    def each(self, z: Tensor) -> Evaluation:
        """As `ConditionedSpeech.each`."""
        log_prior, log_variance = self.speech.each(z)
        return Evaluation(log_prior, log_variance[..., : self.bins])
