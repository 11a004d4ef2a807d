"""Deep Kalman filters: VAEs of speech whose z remembers the frame before.

    z_1 ~ N(0, I)
    z_n | z_{n-1} ~ N(mu(z_{n-1}), diag sigma(z_{n-1}))                      `DeepKalmanFilter`
    z_n | z_{n-1}, v_n ~ N(mu(z_{n-1}, v_n), diag sigma(z_{n-1}, v_n))       `AVDeepKalmanFilter`
    s_fn | z_n ~ N_c(0, sigma_f(z_n)), or sigma_f(z_n, v_n)

Krishnan, Shalit, Sontag, AAAI 2017 (arXiv 1609.09869); for speech enhancement Bie, Leglaive, Alameda-Pineda,
Girin, TASLP 2022 (arXiv 2106.12271), whose guide is recurrent. Here decoder and guide are those of the A-VAE
or AV-VAE, frame by frame, so that a trained pair only needs a transition. Past lips are seen through z_{n-1}
alone.
"""

import pyro
from torch import Tensor

from avse.models.a_vae import Decoder
from avse.models.av_vae import ConditionalDecoder, Trunk
from avse.models.base import ConditionedSpeech, SingleComponent, SpeechModel, decoder_given
from avse.models.coupling import Coupling
from avse.models.markov_chain import MarkovChain, Transition
from avse.models.sites import Z


class DeepKalmanFilter(SpeechModel):
    """The A-VAE with a Markov prior.

    Args:
        transition: p(z_1) and p(z_n | z_{n-1}).
        decoder: z (*, N, L) -> log variance of the speech (*, N, F).
    """

    def __init__(self, transition: Transition, decoder: Decoder) -> None:
        super().__init__()
        self.transition = transition
        self.decoder = decoder

    @property
    def coupling(self) -> Coupling:
        """Markov."""
        return Coupling.MARKOV

    def latent(self, visual: Tensor | None = None) -> Tensor:
        """z_n ~ p(z_n | z_{n-1}); returns log sigma(z). `visual` is not used."""
        z = pyro.sample(Z, MarkovChain(self.transition))
        return self.decoder(z)

    def closed_form(self, visual: Tensor | None = None) -> ConditionedSpeech:
        """As `SpeechModel.closed_form`."""
        return SingleComponent(MarkovChain(self.transition), decoder_given(self.decoder))


class AVDeepKalmanFilter(SpeechModel):
    """The AV-VAE with a Markov prior that sees the lips.

    Args:
        lips: trunk, visual (*, N, D) -> embedding (*, N, E).
        transition: p(z_1 | v_1) and p(z_n | z_{n-1}, v_n), of the embedding.
        decoder: z and embedding -> log variance of the speech (*, N, F).
    """

    def __init__(self, lips: Trunk, transition: Transition, decoder: ConditionalDecoder) -> None:
        super().__init__()
        self.lips = lips
        self.transition = transition
        self.decoder = decoder

    @property
    def coupling(self) -> Coupling:
        """Markov."""
        return Coupling.MARKOV

    def latent(self, visual: Tensor | None = None) -> Tensor:
        """z_n ~ p(z_n | z_{n-1}, v_n); returns log sigma(z, v)."""
        embedding = self.lips(visual)
        z = pyro.sample(Z, MarkovChain(self.transition, embedding))
        return self.decoder(z, embedding)

    def closed_form(self, visual: Tensor | None = None) -> ConditionedSpeech:
        """As `SpeechModel.closed_form`; the embedding is computed once."""
        embedding = self.lips(visual)
        return SingleComponent(
            MarkovChain(self.transition, embedding), decoder_given(self.decoder, embedding)
        )
