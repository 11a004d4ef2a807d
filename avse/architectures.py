"""How the models of the zoo are put together: one function a family, arguments in plain values.

The functions give a model and its guide, untrained. Their arguments are saved with the weights; a script that
wants other parts calls the classes directly.
"""

from collections.abc import Callable, Sequence

from avse.guides.audio import AudioGuide
from avse.guides.guide import SpeechGuide
from avse.models.a_vae import AVAE, StandardNormal
from avse.models.networks import GaussianEncoder, LogPower, RawPower, SpectrumDecoder
from avse.models.speech import SpeechModel

FEATURES: dict[str, Callable[[int], RawPower | LogPower]] = {
    "log-power": LogPower,
    "power": lambda bins: RawPower(),
}


def a_vae(
    bins: int,
    latent_size: int = 32,
    encoder: Sequence[int] = (384, 384),
    decoder: Sequence[int] = (256, 256),
    features: str = "log-power",
    encoder_activation: str = "tanh",
    decoder_activation: str = "tanh",
) -> tuple[SpeechModel, SpeechGuide]:
    """A-VAE: N(0, I) prior, perceptrons.

    Args:
        bins: F.
        latent_size: L.
        encoder: hidden sizes of the encoder.
        decoder: hidden sizes of the decoder.
        features: what the encoder reads, "log-power" or "power" (the papers').
        encoder_activation: of its hidden layers, a key of `avse.models.networks.ACTIVATIONS`.
        decoder_activation: likewise.
    """
    model = AVAE(StandardNormal(latent_size), SpectrumDecoder(latent_size, decoder, bins, decoder_activation))
    guide = AudioGuide(
        FEATURES[features](bins), GaussianEncoder(bins, encoder, latent_size, encoder_activation)
    )
    return model, guide


ARCHITECTURES: dict[str, Callable[..., tuple[SpeechModel, SpeechGuide]]] = {"a-vae": a_vae}
