"""Amortised EM by sound alone and with lips, and a weighted mean of the two Wiener gains.

For a VAE-MM whose A-VAE has a context guide that the lips refine (`avse.guides.context`). Both fits have the
A-VAE as the model of the speech and a noise of their own; they differ in the variational posterior, q(z | x)
or q(z | x, v). With w_n the probability that the lips can be used,

    G_n = (1 - w_n) G_n[q(z | x)] + w_n G_n[q(z | x, v)],    w_n = max_weight valid_n p(alpha_n = 0 | v)

p(alpha_n = 0 | v) is what the prior of alpha says of the lips, that they are not corrupted. Since w_n is at
most max_weight < 1, lips cannot lower the gain of any bin below 1 - max_weight of that by sound alone: they
cannot mute a recording.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Generator, Tensor

from avse.data.errors import InputError
from avse.guides.base import SpeechGuide
from avse.guides.context import reads_lips
from avse.inference.algorithm import Algorithm, Progress
from avse.inference.em.amortised import AmortisedEM
from avse.inference.em.anchored import components, corruption_probability, with_weighted_gains
from avse.inference.posterior import Posterior
from avse.models.base import SpeechModel
from avse.models.coupling import check_alpha


@dataclass(frozen=True)
class AmortisedLipsEM:
    """The weighted mean of two amortised fits, see above; without lips the one by sound alone.

    Args:
        amortised: schedule of both fits.
        otherwise: algorithm for models that are no mixtures of two, and for recordings without lips.
        max_weight: largest weight of the gain with lips; the mean gain is at least 1 - max_weight of that by
            sound alone.
    """

    weights_lips: ClassVar[bool] = True
    amortised: AmortisedEM
    otherwise: Algorithm
    max_weight: float = 0.5

    def __call__(
        self,
        speech: SpeechModel,
        guide: SpeechGuide,
        power: Tensor,
        visual: Tensor | None,
        generator: Generator,
        progress: Progress = lambda fraction: None,
    ) -> Posterior:
        """The posterior given |x|^2 = `power` (*, N, F) and lips; its noise is that by sound alone.

        Raises:
            InputError: the context guide of the audio-only component reads no lips, a mixture of more than
                two models, or one whose alpha is a chain over time.
        """
        check_alpha(speech)
        found = components(speech, guide)
        if found is None or visual is None:
            return self.otherwise(speech, guide, power, visual, generator, progress)
        _, (model, own_guide) = found
        if not reads_lips(own_guide):
            raise InputError(
                "amortised-lips needs a context guide that the lips refine, and this pair has none: train "
                "one by the recipe vae-mm-context, or use mcem-anchored"
            )
        audio = self.amortised(model, own_guide, power, None, generator, lambda f: progress(0.5 * f))
        seen = self.amortised(model, own_guide, power, visual, generator, lambda f: progress(0.5 + 0.5 * f))
        usable = visual[..., -1] * (1 - corruption_probability(speech, visual))
        weight = self.max_weight * usable.expand(power.shape[:-1])
        return with_weighted_gains(audio, seen, weight, power)
