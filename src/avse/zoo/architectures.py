"""How the models of the zoo are put together: one function a family, arguments in plain values.

The functions give a model and its guide, untrained. Their arguments are saved with the weights; a script that
wants other parts calls the classes directly.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from avse.data.errors import InputError
from avse.data.lips.geometry import SHAPES
from avse.data.lips.shape_front_end import LipShapeFrontEnd, LipView
from avse.guides.audio import AudioGuide
from avse.guides.audio_visual import AudioVisualGuide
from avse.guides.base import SpeechGuide
from avse.guides.context import AudioVisualContextGuide, ContextGuide
from avse.guides.mixture import MixtureGuide, OptimalResponsibilities
from avse.guides.visual import VisualGuide
from avse.models.a_vae import AVAE, StandardNormal
from avse.models.av_vae import AVVAE, VisualPrior
from avse.models.base import SpeechModel
from avse.models.deep_kalman_filter import AVDeepKalmanFilter, DeepKalmanFilter
from avse.models.min_vae import MINVAE
from avse.models.networks.context import DilatedNetwork, LipRefinement
from avse.models.networks.lips import (
    LipCorruptionClassifier,
    LipTrunk,
    motion_mlp,
    papers_mlp,
    shape_mlp,
    shared_frame_mlp,
)
from avse.models.networks.sequence import SEQUENCE_NETWORKS, SequenceDecoder, SequenceEncoder
from avse.models.networks.spectrum import GaussianEncoder, LogPower, RawPower, SpectrumDecoder
from avse.models.networks.transition import GatedTransition
from avse.models.recurrent_vae import RecurrentVAE
from avse.models.robust_prior import RobustPrior
from avse.models.vae_mm import VAEMM

FEATURES: dict[str, Callable[[int], RawPower | LogPower]] = {
    "log-power": LogPower,
    "power": lambda bins: RawPower(),
}

TRUNKS = ("shared", "papers")
"""Kinds of lip trunks."""


def a_vae(
    bins: int,
    latent_size: int = 32,
    encoder: Sequence[int] = (384, 384),
    decoder: Sequence[int] = (256, 256),
    features: str = "log-power",
    encoder_activation: str = "tanh",
    decoder_activation: str = "tanh",
    context_channels: int = 0,
    context_dilations: Sequence[int] = (),
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
        context_channels: of the hidden layers of the context guide (`avse.guides.context`); 0 for none.
        context_dilations: of its blocks, frames.
    """
    model = AVAE(StandardNormal(latent_size), SpectrumDecoder(latent_size, decoder, bins, decoder_activation))
    guide = AudioGuide(
        FEATURES[features](bins),
        GaussianEncoder(bins, encoder, latent_size, encoder_activation),
        new_context_guide(bins, latent_size, context_channels, context_dilations),
    )
    return model, guide


def new_context_guide(
    bins: int, latent_size: int, channels: int, dilations: Sequence[int]
) -> ContextGuide | None:
    """A context guide, untrained.

    Args:
        bins: F.
        latent_size: L.
        channels: of the hidden layers; 0 for no guide.
        dilations: of the residual blocks, frames.
    """
    if channels == 0:
        return None
    network = DilatedNetwork(bins, channels, dilations, 2 * latent_size + bins)
    return ContextGuide(LogPower(bins), network, latent_size)


def refined_by_lips(
    context: SpeechGuide | None,
    lips: LipView,
    channels: int,
    embedding_size: int,
    dilations: Sequence[int],
    dropout: float,
) -> AudioVisualContextGuide:
    """A context guide that the lips refine, which begins as the context guide of sound alone.

    Args:
        context: of sound alone.
        lips: how they are shown.
        channels: of the hidden layers.
        embedding_size: E, of the lips.
        dilations: of the residual blocks, frames.
        dropout: of the embedding of the lips.

    Raises:
        InputError: there is no context guide.
    """
    if not isinstance(context, ContextGuide):
        raise InputError("the lips refine a context guide, and this A-VAE has none: set context_channels")
    hidden_size = context.network.last.in_features
    refinement = LipRefinement(
        hidden_size, context.latent_size, lips.size, embedding_size, channels, dilations, dropout
    )
    return AudioVisualContextGuide(context.features, context.network, context.latent_size, refinement)


def lip_trunk(lips: LipView, embedding_size: int, kind: str = "shared", dropout: float = 0.0) -> LipTrunk:
    """A trunk for lips.

    Args:
        lips: how they are shown.
        embedding_size: E.
        kind: "shared" for one linear map of all video frames, "papers" for their MLP; shapes of the mouth
            have one kind of trunk, whatever is asked for.
        dropout: of all but the papers'.

    Raises:
        InputError: an unknown kind.
    """
    if isinstance(lips, LipShapeFrontEnd):
        wanted = (0, len(SHAPES))
        layers = shape_mlp(lips.instants, lips.quantities, wanted, embedding_size, dropout=dropout)
        return LipTrunk(layers, embedding_size)
    if kind == "papers":
        return LipTrunk(papers_mlp(lips.side, lips.instants, embedding_size), embedding_size)
    if kind != "shared":
        raise InputError(f"unknown trunk {kind!r}: use shared or papers")
    return LipTrunk(
        shared_frame_mlp(lips.side, lips.instants, embedding_size, dropout=dropout), embedding_size
    )


def v_vae(
    bins: int,
    lips: LipView,
    latent_size: int = 32,
    embedding_size: int = 128,
    trunk: str = "shared",
    encoder: Sequence[int] = (128,),
    decoder: Sequence[int] = (256, 256),
    encoder_activation: str = "silu",
    decoder_activation: str = "silu",
    dropout: float = 0.4,
) -> tuple[SpeechModel, SpeechGuide]:
    """V-VAE: the model of the A-VAE, and a guide that sees the lips alone.

    Args:
        bins: F.
        lips: how they are shown.
        latent_size: L.
        embedding_size: E, of what the trunk makes of the lips.
        trunk: "shared" or "papers".
        encoder: hidden sizes after the trunk.
        decoder: hidden sizes of the decoder.
        encoder_activation: of the encoder's hidden layers.
        decoder_activation: likewise.
        dropout: of trunk and encoder.
    """
    model = AVAE(StandardNormal(latent_size), SpectrumDecoder(latent_size, decoder, bins, decoder_activation))
    head = GaussianEncoder(embedding_size, encoder, latent_size, encoder_activation, dropout)
    return model, VisualGuide(lip_trunk(lips, embedding_size, trunk, dropout), VisualPrior(head))


def av_vae(
    bins: int,
    lips: LipView,
    latent_size: int = 32,
    embedding_size: int = 128,
    trunk: str = "shared",
    tied: bool = True,
    prior: str = "network",
    prior_hidden: Sequence[int] = (128,),
    encoder: Sequence[int] = (384, 384),
    decoder: Sequence[int] = (256, 256),
    features: str = "log-power",
    encoder_activation: str = "tanh",
    decoder_activation: str = "silu",
    dropout: float = 0.4,
    temperature: float = 1.0,
    epsilon: float = 0.0,
) -> tuple[SpeechModel, SpeechGuide]:
    """AV-VAE: prior and decoder that see the lips, and a guide that hears and sees.

    Args:
        bins: F.
        lips: how they are shown.
        latent_size: L.
        embedding_size: E, of what the trunk makes of the lips.
        trunk: "shared" or "papers".
        tied: one trunk for model and guide; else each has its own.
        prior: "network" for z ~ N(mu(v), sigma(v)), "standard" for z ~ N(0, I).
        prior_hidden: hidden sizes of the prior network, after the trunk.
        encoder: hidden sizes of the encoder.
        decoder: hidden sizes of the decoder.
        features: what the encoder reads of the sound, "log-power" or "power" (the papers').
        encoder_activation: of its hidden layers.
        decoder_activation: likewise.
        dropout: of the trunk, and of nothing after it: guide and model must agree on the prior.
        temperature: tau, of the prior's standard deviations, see `RobustPrior`.
        epsilon: its share of N(0, I).
    """
    make_trunk = partial(lip_trunk, lips, embedding_size, trunk, dropout)
    shared_trunk = make_trunk()
    network = GaussianEncoder(embedding_size, prior_hidden, latent_size, "relu")
    model = AVVAE(
        shared_trunk,
        RobustPrior(network, temperature, epsilon) if prior == "network" else StandardNormal(latent_size),
        SpectrumDecoder(latent_size, decoder, bins, decoder_activation, embedding_size),
    )
    guide = AudioVisualGuide(
        FEATURES[features](bins),
        shared_trunk if tied else make_trunk(),
        GaussianEncoder(bins, encoder, latent_size, encoder_activation, embedding_size=embedding_size),
    )
    return model, guide


def visual_prior_vae(
    bins: int,
    lips: LipView,
    latent_size: int = 32,
    embedding_size: int = 96,
    prior_hidden: Sequence[int] = (128,),
    encoder: Sequence[int] = (384, 384),
    decoder: Sequence[int] = (256, 256),
    features: str = "log-power",
    encoder_activation: str = "tanh",
    decoder_activation: str = "silu",
    dropout: float = 0.3,
    temperature: float = 1.0,
    epsilon: float = 0.0,
) -> tuple[SpeechModel, SpeechGuide]:
    """AV-VAE of which the prior alone sees the lips: encoder and decoder are those of an A-VAE.

    What is learnt of the voice then comes from every speaker that is heard, and not from the few that are
    seen; with a defensive prior the evidence cannot fall far below the A-VAE's, see `RobustPrior`.

    Args:
        bins: F.
        lips: how they are shown.
        latent_size: L.
        embedding_size: E, of what the trunk makes of the lips.
        prior_hidden: hidden sizes of the prior network, after the trunk.
        encoder: hidden sizes of the encoder.
        decoder: hidden sizes of the decoder.
        features: what the encoder reads, "log-power" or "power" (the papers').
        encoder_activation: of its hidden layers.
        decoder_activation: likewise.
        dropout: of the trunk.
        temperature: tau, of the prior's standard deviations.
        epsilon: its share of N(0, I).
    """
    network = GaussianEncoder(embedding_size, prior_hidden, latent_size, "relu")
    model = AVVAE(
        lip_trunk(lips, embedding_size, dropout=dropout),
        RobustPrior(network, temperature, epsilon),
        SpectrumDecoder(latent_size, decoder, bins, decoder_activation),
    )
    guide = AudioGuide(
        FEATURES[features](bins), GaussianEncoder(bins, encoder, latent_size, encoder_activation)
    )
    return model, guide


def min_vae(
    bins: int,
    lips: LipView,
    version: int = 1,
    latent_size: int = 32,
    embedding_size: int = 128,
    trunk: str = "shared",
    visual_encoder: Sequence[int] = (128,),
    audio_encoder: Sequence[int] = (384, 384),
    decoder: Sequence[int] = (256, 256),
    features: str = "log-power",
    visual_activation: str = "silu",
    audio_activation: str = "tanh",
    decoder_activation: str = "silu",
    dropout: float = 0.4,
) -> tuple[SpeechModel, SpeechGuide]:
    """MIN-VAE: one decoder, an encoder that hears and one that sees, and the optimal r(alpha).

    Where one encoder is to answer alone, it is the one that hears; the papers' variational EM asks the other.

    Args:
        bins: F.
        lips: how they are shown.
        version: 1 for a decoder that sees z alone, 2 for one that also sees the lips.
        latent_size: L.
        embedding_size: E, of what the trunk makes of the lips.
        trunk: "shared" or "papers"; in version 2 decoder and visual encoder have it in common.
        visual_encoder: hidden sizes after the trunk.
        audio_encoder: hidden sizes.
        decoder: hidden sizes.
        features: what the audio encoder reads, "log-power" or "power" (the papers').
        visual_activation: of the visual encoder's hidden layers.
        audio_activation: likewise.
        decoder_activation: likewise.
        dropout: of the trunk.

    Raises:
        InputError: an unknown version.
    """
    if version not in (1, 2):
        raise InputError(f"MIN-VAE version {version}: there are 1 (decoder of z) and 2 (of z and lips)")
    shared_trunk = lip_trunk(lips, embedding_size, trunk, dropout)
    model = MINVAE(
        latent_size,
        SpectrumDecoder(
            latent_size, decoder, bins, decoder_activation, embedding_size if version == 2 else 0
        ),
        shared_trunk if version == 2 else None,
    )
    audio_guide = AudioGuide(
        FEATURES[features](bins), GaussianEncoder(bins, audio_encoder, latent_size, audio_activation)
    )
    head = GaussianEncoder(embedding_size, visual_encoder, latent_size, visual_activation)
    guide = MixtureGuide(
        audio_guide,
        VisualGuide(shared_trunk, VisualPrior(head)),
        responsibilities=OptimalResponsibilities(model),
        start=1,
    )
    return model, guide


def vae_mm(
    bins: int,
    lips: LipView,
    first: Mapping[str, Any] | None = None,
    second: Mapping[str, Any] | None = None,
    pi: float = 0.5,
    corruption_embedding_size: int = 64,
    dropout: float = 0.2,
    refinement_channels: int = 0,
    refinement_embedding_size: int = 64,
    refinement_dilations: Sequence[int] = (),
) -> tuple[SpeechModel, SpeechGuide]:
    """VAE-MM of an A-VAE and an AV-VAE, with the encoder of each and the optimal r(alpha).

    Args:
        bins: F.
        lips: how they are shown.
        first: arguments of `a_vae`, besides the bins.
        second: arguments of `av_vae`, besides bins and lips.
        pi: probability of the A-VAE where the lips leave it open.
        corruption_embedding_size: E of the trunk of the classifier of corrupted lips; 0 for none.
        dropout: of that trunk, and of the embedding of the lips in the refinement.
        refinement_channels: of the hidden layers by which the lips refine the context guide of the A-VAE; 0
            for a context guide of sound alone. See `avse.guides.context.AudioVisualContextGuide`.
        refinement_embedding_size: E of the lips there.
        refinement_dilations: of the residual blocks there, frames.

    Raises:
        InputError: lips are to refine a context guide, and the A-VAE has none.
    """
    audio_model, audio_guide = a_vae(bins, **(first or {}))
    if refinement_channels:
        assert isinstance(audio_guide, AudioGuide)
        audio_guide.context = refined_by_lips(
            audio_guide.context,
            lips,
            refinement_channels,
            refinement_embedding_size,
            refinement_dilations,
            dropout,
        )
    visual_model, visual_guide = av_vae(bins, lips, **(second or {}))
    classifier = corruption_classifier(lips, corruption_embedding_size, dropout)
    model = VAEMM(audio_model, visual_model, pi=pi, corruption_classifier=classifier)
    return model, MixtureGuide(audio_guide, visual_guide, responsibilities=OptimalResponsibilities(model))


def a_v_av(
    bins: int,
    lips: LipView,
    first: Mapping[str, Any] | None = None,
    second: Mapping[str, Any] | None = None,
    third: Mapping[str, Any] | None = None,
    pi: Sequence[float] = (0.4, 0.3, 0.3),
    corruption_embedding_size: int = 64,
    dropout: float = 0.2,
) -> tuple[SpeechModel, SpeechGuide]:
    """Mixture of an A-VAE, a V-VAE and an AV-VAE, with the encoder of each and the optimal r(alpha).

    Args:
        bins: F.
        lips: how they are shown.
        first: arguments of `a_vae`, besides the bins.
        second: arguments of `v_vae`, besides bins and lips.
        third: arguments of `av_vae`, besides bins and lips.
        pi: probabilities of A-, V- and AV-VAE where the lips leave them open, which sum to 1.
        corruption_embedding_size: E of the trunk of the classifier of corrupted lips; 0 for none.
        dropout: of that trunk.
    """
    audio_model, audio_guide = a_vae(bins, **(first or {}))
    visual_model, visual_guide = v_vae(bins, lips, **(second or {}))
    both_model, both_guide = av_vae(bins, lips, **(third or {}))
    classifier = corruption_classifier(lips, corruption_embedding_size, dropout)
    model = VAEMM(audio_model, visual_model, both_model, pi=tuple(pi), corruption_classifier=classifier)
    guides = [audio_guide, visual_guide, both_guide]
    return model, MixtureGuide(*guides, responsibilities=OptimalResponsibilities(model))


def dkf(
    bins: int,
    latent_size: int = 32,
    transition_hidden: int = 128,
    encoder: Sequence[int] = (384, 384),
    decoder: Sequence[int] = (256, 256),
    features: str = "log-power",
    transition_activation: str = "silu",
    encoder_activation: str = "tanh",
    decoder_activation: str = "silu",
) -> tuple[SpeechModel, SpeechGuide]:
    """Deep Kalman filter: a gated transition between the frames, encoder and decoder of an A-VAE.

    Args:
        bins: F.
        latent_size: L.
        transition_hidden: size of the hidden layers of the transition.
        encoder: hidden sizes of the encoder.
        decoder: hidden sizes of the decoder.
        features: what the encoder reads, "log-power" or "power".
        transition_activation: of its hidden layers.
        encoder_activation: likewise.
        decoder_activation: likewise.
    """
    model = DeepKalmanFilter(
        GatedTransition(latent_size, transition_hidden, transition_activation),
        SpectrumDecoder(latent_size, decoder, bins, decoder_activation),
    )
    guide = AudioGuide(
        FEATURES[features](bins), GaussianEncoder(bins, encoder, latent_size, encoder_activation)
    )
    return model, guide


def av_dkf(
    bins: int,
    lips: LipView,
    latent_size: int = 32,
    transition_hidden: int = 128,
    embedding_size: int = 96,
    encoder: Sequence[int] = (384, 384),
    decoder: Sequence[int] = (256, 256),
    features: str = "log-power",
    transition_activation: str = "silu",
    encoder_activation: str = "tanh",
    decoder_activation: str = "silu",
    dropout: float = 0.3,
) -> tuple[SpeechModel, SpeechGuide]:
    """Deep Kalman filter of which the transition alone sees the lips.

    Args:
        bins: F.
        lips: how they are shown.
        latent_size: L.
        transition_hidden: size of the hidden layers of the transition.
        embedding_size: E, of what the trunk makes of the lips.
        encoder: hidden sizes of the encoder.
        decoder: hidden sizes of the decoder.
        features: what the encoder reads, "log-power" or "power".
        transition_activation: of its hidden layers.
        encoder_activation: likewise.
        decoder_activation: likewise.
        dropout: of the trunk.
    """
    model = AVDeepKalmanFilter(
        lip_trunk(lips, embedding_size, dropout=dropout),
        GatedTransition(latent_size, transition_hidden, transition_activation, embedding_size),
        SpectrumDecoder(latent_size, decoder, bins, decoder_activation),
    )
    guide = AudioGuide(
        FEATURES[features](bins), GaussianEncoder(bins, encoder, latent_size, encoder_activation)
    )
    return model, guide


def rvae(
    bins: int,
    latent_size: int = 32,
    network: str = "dilated",
    encoder_channels: int = 256,
    encoder_dilations: Sequence[int] = (1, 2, 4, 8),
    decoder_channels: int = 192,
    decoder_dilations: Sequence[int] = (1, 2, 4),
    features: str = "log-power",
) -> tuple[SpeechModel, SpeechGuide]:
    """Recurrent VAE: encoder and decoder over frames.

    Args:
        bins: F.
        latent_size: L.
        network: "dilated" for convolutions over frames, "lstm" for a bidirectional LSTM.
        encoder_channels: of the hidden layers; units of each direction of the LSTM.
        encoder_dilations: frames, of the residual blocks of "dilated".
        decoder_channels: likewise.
        decoder_dilations: likewise.
        features: what the encoder reads, "log-power" or "power".
    """
    make = SEQUENCE_NETWORKS[network]
    encoder = SequenceEncoder(make(bins, encoder_channels, encoder_dilations, 2 * latent_size))
    decoder = SequenceDecoder(make(latent_size, decoder_channels, decoder_dilations, bins), bins)
    return RecurrentVAE(StandardNormal(latent_size), decoder), AudioGuide(FEATURES[features](bins), encoder)


def corruption_classifier(
    lips: LipView, embedding_size: int, dropout: float = 0.2
) -> LipCorruptionClassifier | None:
    """The classifier of corrupted lips of a mixture.

    Args:
        lips: how they are shown.
        embedding_size: E of its trunk; 0 for no classifier.
        dropout: of the trunk.
    """
    if not embedding_size:
        return None
    if isinstance(lips, LipShapeFrontEnd):
        everything = (0, lips.quantities)
        layers = shape_mlp(lips.instants, lips.quantities, everything, embedding_size, dropout=dropout)
    else:
        layers = motion_mlp(lips.side, lips.instants, embedding_size, dropout=dropout)
    return LipCorruptionClassifier(LipTrunk(layers, embedding_size), embedding_size)


Builder = Callable[..., tuple[SpeechModel, SpeechGuide]]
"""(bins, lips where the models use them, plain values) -> model and guide, untrained."""

ARCHITECTURES: dict[str, Builder] = {
    "a-vae": a_vae,
    "v-vae": v_vae,
    "av-vae": av_vae,
    "visual-prior-vae": visual_prior_vae,
    "min-vae": min_vae,
    "vae-mm": vae_mm,
    "a-v-av": a_v_av,
    "dkf": dkf,
    "av-dkf": av_dkf,
    "rvae": rvae,
}


def register(
    name: str,
) -> Callable[
    [Callable[..., tuple[SpeechModel, SpeechGuide]]], Callable[..., tuple[SpeechModel, SpeechGuide]]
]:
    """Give a builder of one's own a name, under which its pairs are made, saved and loaded.

        @register("heavy-tails")
        def heavy_tails(bins: int, latent_size: int = 32, hidden: Sequence[int] = (256,)):
            decoder = SpectrumDecoder(latent_size, hidden, bins)
            guide = AudioGuide(LogPower(bins), GaussianEncoder(bins, hidden, latent_size))
            return AVAE(HeavyTails(latent_size), decoder), guide

        pair = SpeechPair(PairConfig("heavy-tails", {"latent_size": 16}, FrontEnd()))

    Its arguments are `bins`, `lips` for a pair that uses them, and plain values with annotations and
    defaults: bool, int, or sizes of layers. A program that loads the pair registers the builder first.

    Args:
        name: of the architecture.

    Raises:
        InputError: another builder has the name, or an argument has no annotation or default.
    """

    def add(builder: Builder) -> Builder:
        parameters = inspect.signature(builder).parameters
        if name in ARCHITECTURES and ARCHITECTURES[name] is not builder:
            raise InputError(f"architecture {name!r}: another builder has this name; choose another one")
        if "bins" not in parameters:
            raise InputError(f"builder of {name!r}: give it a parameter `bins`, the number of frequencies")
        for argument, parameter in parameters.items():
            plain = argument in ("bins", "lips")
            if not plain and inspect.Parameter.empty in (parameter.default, parameter.annotation):
                raise InputError(
                    f"builder of {name!r}: its argument {argument!r} needs an annotation and a default"
                )
        ARCHITECTURES[name] = builder
        return builder

    return add


NESTED_ARGUMENTS: dict[str, dict[str, str]] = {
    "vae-mm": {"first": "a-vae", "second": "av-vae"},
    "a-v-av": {"first": "a-vae", "second": "v-vae", "third": "av-vae"},
}
"""Architecture -> its arguments that are arguments of another architecture -> name of that one."""
