"""A speech model heard through a narrow channel: only the lowest bins of its spectrum are observed."""

from torch import Tensor

from avse.models.base import Evaluation, SpeechModel


class BandLimited(SpeechModel):
    """The lowest bins of another model; a recording of low rate says nothing about the rest.

    Args:
        speech: model of F bins.
        bins: how many of them are observed.
    """

    def __init__(self, speech: SpeechModel, bins: int) -> None:
        super().__init__()
        self.speech = speech
        self.bins = bins

    def latent(self, visual: Tensor | None = None) -> Tensor:
        """Log variance of the observed bins, (*, N, bins)."""
        return self.speech.latent(visual)[..., : self.bins]

    def evaluate(self, z: Tensor, visual: Tensor | None = None) -> Evaluation:
        """As `SpeechModel.evaluate`, by the wrapped model's own."""
        return self._observed(self.speech.evaluate(z, visual))

    def evaluate_each(self, z: Tensor, visual: Tensor | None = None) -> Evaluation:
        """As `SpeechModel.evaluate_each`, by the wrapped model's own."""
        return self._observed(self.speech.evaluate_each(z, visual))

    def _observed(self, evaluation: Evaluation) -> Evaluation:
        return Evaluation(evaluation.log_prior, evaluation.log_variance[..., : self.bins])
