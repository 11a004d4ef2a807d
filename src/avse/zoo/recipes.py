"""How the pairs of the zoo are trained: everything that `avse train` needs besides the speech itself."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback

import avse.zoo as zoo
from avse.checks import checked_device
from avse.data.augmentation import (
    Augmentation,
    ColouredNoise,
    EqualiserAugmentation,
    LevelAugmentation,
    LipAugmentation,
    ShapeAugmentation,
    UniformNoise,
)
from avse.data.corpora.base import Corpus
from avse.data.datamodule import FrameDataModule, TrainingData
from avse.data.errors import InputError
from avse.data.front_end import FrontEnd
from avse.data.lips.corruption import LipCorruption
from avse.data.lips.front_end import LipFrontEnd
from avse.data.lips.shape_front_end import LipShapeFrontEnd
from avse.data.sequences import SequenceDataModule
from avse.data.simulation import SimulationDataModule
from avse.data.stft import STFT
from avse.data.visual_simulation import VisualSimulationDataModule
from avse.guides.mixture import BranchGuide, MixtureGuide
from avse.guides.visual import VisualGuide
from avse.guides.wrappers import Corruption, corrupted
from avse.inference.svi.audio_path import FrozenAudioPath
from avse.inference.svi.checkpoints import exclusive_run, starting_checkpoint
from avse.inference.svi.compilation import InferenceCompilation
from avse.inference.svi.elbo import (
    AlphaLikelihood,
    AnalyticKLTraceEnumELBO,
    MeanOfRecordings,
    Objective,
    PriorMixedELBO,
    SumOfBounds,
)
from avse.inference.svi.training import (
    SVI,
    TrainingReport,
    TrainingSettings,
    fit,
    write_report,
)
from avse.models.av_vae import AVVAE
from avse.models.vae_mm import VAEMM
from avse.progress import progress_bar
from avse.report import versions
from avse.zoo.card import training_card
from avse.zoo.pair import PairConfig, SpeechPair


@dataclass(frozen=True)
class PretrainedInit:
    """Parts of a pair that begin as those of a trained one.

    Attributes:
        pair: name in the zoo, or folder of the trained pair.
        parts: names of its modules, under "model" or "guide" -> names of those that begin like them.
    """

    pair: str
    parts: Mapping[str, str]

    def __call__(self, pair: SpeechPair) -> None:
        """Copy the weights.

        Raises:
            InputError: no such pair, or parts of other sizes.
        """
        source, target = zoo.load(self.pair).modules(), pair.modules()
        for name, new in self.parts.items():
            try:
                target.get_submodule(new).load_state_dict(source.get_submodule(name).state_dict())
            except (AttributeError, RuntimeError) as error:
                raise InputError(f"{self.pair}: its {name} does not fit {new}: {error}") from error


@dataclass(frozen=True)
class Recipe:
    """A way to train one pair.

    Attributes:
        pair: what is trained.
        settings: optimiser, length and seed.
        augmentations: of the training frames.
        data: keyword arguments of `loader`.
        loader: makes the training data from corpora, a front end, the lip front end of a pair with lips, a
            seed and `data`.
        objective: the bound, made from the pair; the evidence lower bound by default.
        callbacks: further Lightning callbacks.
        corruption: of the audio input of the guide in training, or None.
        pretrained: trained pairs that parts of this one begin as; the rest begins at random.
        trainable: names of the parts that learn, under "model" or "guide"; the rest stays as it begins. What
            model and guide share goes by its name in the model.
        name: in `RECIPES`.
    """

    pair: PairConfig
    settings: TrainingSettings
    augmentations: Sequence[Augmentation]
    data: dict[str, Any]
    objective: Callable[[SpeechPair], Objective | None] = lambda pair: None
    callbacks: Sequence[Callback] = ()
    corruption: Corruption | None = None
    pretrained: Sequence[PretrainedInit] = ()
    trainable: Sequence[str] = ("model", "guide")
    name: str = ""
    loader: Callable[..., TrainingData] = FrameDataModule


CONTEXT: dict[str, Any] = {
    "context_channels": 256,
    "context_dilations": (1, 2, 4, 8, 16, 32, 64, 1, 2, 4, 8, 16),
}
"""The context guide of the A-VAE that ships, in arguments of `avse.zoo.architectures.a_vae`."""


def _a_vae() -> Recipe:
    """Log-power features, frames of many levels and colours, of hundreds of speakers."""
    return Recipe(
        PairConfig(
            "a-vae",
            {"latent_size": 32, "decoder_activation": "silu"},
            FrontEnd(STFT(hop_length=256), "rms", high_pass=70.0),
        ),
        TrainingSettings(learning_rate=1e-3, max_epochs=40, patience=8, kl_warmup=1000, gradient_norm=200.0),
        (LevelAugmentation(-20.0, 5.0), EqualiserAugmentation(2.0)),
        {
            "batch_size": 256,
            "epoch_frames": 64_000,
            "balance": 0.25,
        },
    )


def _a_vae_context() -> Recipe:
    """The context guide of the A-VAE that ships, on simulated recordings; the A-VAE stays as it is."""
    recipe = _a_vae()
    arguments = {**recipe.pair.arguments, **CONTEXT}
    start = PretrainedInit(
        "a-vae",
        {
            "model": "model",
            "guide.features": "guide.features",
            "guide.encoder": "guide.encoder",
        },
    )
    return Recipe(
        replace(recipe.pair, arguments=arguments, algorithm="amortised"),
        TrainingSettings(
            learning_rate=1e-3, weight_decay=0.01, max_epochs=46, patience=46, gradient_norm=1.0, keep="last"
        ),
        (),
        {"batch_size": 48, "epoch_batches": 200},
        objective=lambda pair: InferenceCompilation(),
        pretrained=(start,),
        trainable=("guide.context",),
        loader=SimulationDataModule,
    )


REFINEMENT: dict[str, Any] = {
    "refinement_channels": 128,
    "refinement_embedding_size": 64,
    "refinement_dilations": (1, 2, 4, 8, 16),
}
"""The refinement by lips of the VAE-MM that ships, in arguments of `avse.zoo.architectures.vae_mm`."""


def _vae_mm_context() -> Recipe:
    """The refinement of a context guide by the lips, on simulated recordings; all else stays as it is."""
    recipe = _vae_mm()
    audio = "guide.branches.1"
    parts = ("model", "guide.branches.0", f"{audio}.features", f"{audio}.encoder")
    context = (f"{audio}.context.features", f"{audio}.context.network")
    return Recipe(
        replace(
            recipe.pair,
            arguments={**recipe.pair.arguments, **REFINEMENT},
            algorithm="amortised-lips",
        ),
        TrainingSettings(
            learning_rate=1e-3, weight_decay=0.05, max_epochs=20, patience=20, gradient_norm=1.0, keep="last"
        ),
        (),
        {"batch_size": 8, "epoch_batches": 200, "max_utterances": 160},
        objective=lambda pair: InferenceCompilation(component=1),
        pretrained=(PretrainedInit("vae-mm", {name: name for name in (*parts, *context)}),),
        trainable=(f"{audio}.context.refinement",),
        loader=VisualSimulationDataModule,
    )


def _dkf() -> Recipe:
    """The transition of a deep Kalman filter, on pieces of speech; encoder and decoder of the A-VAE stay."""
    recipe = _a_vae()
    voice = ("model.decoder", "guide.features", "guide.encoder")
    return replace(
        recipe,
        pair=replace(recipe.pair, architecture="dkf"),
        settings=TrainingSettings(
            learning_rate=2e-3, max_epochs=20, patience=20, gradient_norm=200.0, keep="last"
        ),
        data={"batch_size": 32, "piece_frames": 64, "epoch_pieces": 2000, "balance": 0.25},
        objective=bound_of_sequences,
        pretrained=(PretrainedInit("a-vae", {name: name for name in voice}),),
        trainable=("model.transition",),
        loader=SequenceDataModule,
    )


def _av_dkf() -> Recipe:
    """As the deep Kalman filter, with a transition that sees the lips; half of the pieces have no video."""
    audio, visual = _dkf(), _visual_prior()
    return replace(
        audio,
        pair=replace(visual.pair, architecture="av-dkf"),
        data={**audio.data, "balance": 0.75, "max_utterances": 250, "unseen_share": 0.5},
        trainable=("model.lips", "model.transition"),
    )


def _rvae() -> Recipe:
    """A recurrent VAE of dilated convolutions, on pieces of speech."""
    recipe = _a_vae()
    return replace(
        recipe,
        pair=replace(recipe.pair, architecture="rvae", arguments={"latent_size": 32}, algorithm="fine-tuned"),
        settings=TrainingSettings(
            learning_rate=1e-3, max_epochs=40, patience=40, kl_warmup=600, gradient_norm=200.0, keep="last"
        ),
        data={"batch_size": 32, "piece_frames": 64, "epoch_pieces": 2000, "balance": 0.25},
        objective=bound_of_sequences,
        loader=SequenceDataModule,
    )


def _papers_a_vae() -> Recipe:
    """513-128-32 and 32-128-513, raw power, Adam 1e-4: Sadeghi et al., TASLP 2020."""
    arguments = {"latent_size": 32, "encoder": (128,), "decoder": (128,), "features": "power"}
    return Recipe(
        PairConfig("a-vae", arguments, FrontEnd(STFT(), "peak"), algorithm="paper"),
        TrainingSettings(learning_rate=1e-4, annealed=False, max_epochs=200, patience=20),
        (),
        {"batch_size": 128},
    )


def _a_vae_all_clips() -> Recipe:
    """The A-VAE on every clip of every speaker: what the audio-visual models are compared with."""
    recipe = _a_vae()
    return replace(recipe, data={**recipe.data, "balance": 0.0})


def _v_vae() -> Recipe:
    """Shapes of the mouth at fifteen instants around a frame, changed at random; speakers drawn evenly."""
    audio, lips = _a_vae(), LipShapeFrontEnd()
    return Recipe(
        replace(
            audio.pair,
            architecture="v-vae",
            arguments={"latent_size": 32, "embedding_size": 96, "dropout": 0.3},
            lips=lips,
        ),
        replace(audio.settings, max_epochs=16, weight_decay=0.05),
        (LevelAugmentation(-15.0, 4.0), EqualiserAugmentation(1.0), ShapeAugmentation(lips)),
        {"batch_size": 256, "epoch_frames": 64_000, "balance": 0.75},
    )


def _av_vae() -> Recipe:
    """As the V-VAE, with a prior network, and an encoder whose audio input is noisy.

    Half of the frames are speech without a video: few speakers are seen, but many are heard.
    """
    visual = _v_vae()
    return replace(
        visual,
        pair=replace(visual.pair, architecture="av-vae", algorithm="mcem-lips"),
        data={**visual.data, "unseen_share": 0.5},
        settings=replace(visual.settings, max_epochs=36, patience=36, keep="last"),
        objective=prior_mixed,
        callbacks=(FrozenAudioPath(0.2),),
        corruption=ColouredNoise(),
    )


def _visual_prior() -> Recipe:
    """A prior network that sees the shapes of the mouth, on the frozen encoder and decoder of the A-VAE."""
    visual = _v_vae()
    voice = ("model.decoder", "guide.features", "guide.encoder")
    return replace(
        visual,
        pair=replace(
            visual.pair,
            architecture="visual-prior-vae",
            arguments={"latent_size": 32, "decoder_activation": "silu"},
            algorithm="mcem-lips",
        ),
        settings=replace(visual.settings, max_epochs=8),
        data={**visual.data, "max_utterances": 250},
        pretrained=(PretrainedInit("a-vae", {name: name for name in voice}),),
        trainable=("model.lips", "model.prior"),
    )


def _min_vae_v1() -> Recipe:
    """From the A-VAE and the trunk of the V-VAE; a third of the frames of the audio encoder is corrupted.

    The lips are given as pixels, as to the trained V-VAE.
    """
    visual, lips = _v_vae(), LipFrontEnd()
    return replace(
        visual,
        pair=replace(
            visual.pair,
            architecture="min-vae",
            arguments={"version": 1, "latent_size": 32},
            lips=lips,
            algorithm="mcem-branches",
        ),
        augmentations=(LevelAugmentation(-15.0, 4.0), EqualiserAugmentation(1.0), LipAugmentation(lips)),
        settings=replace(visual.settings, max_epochs=20, patience=20, keep="last"),
        objective=visual_branch_mixed,
        corruption=ColouredNoise(share=1 / 3),
        pretrained=(
            PretrainedInit(
                "a-vae",
                {
                    "model.decoder": "model.decoder",
                    "guide.features": "guide.branches.1.features",
                    "guide.encoder": "guide.branches.1.encoder",
                },
            ),
            PretrainedInit("v-vae", {"guide.lips": "guide.branches.0.lips"}),
        ),
    )


def _min_vae_v2() -> Recipe:
    """From the encoder of the A-VAE, decoder and prior network of the AV-VAE; the latter now encodes lips.

    The lips are shown as shapes, as to the trained AV-VAE.
    """
    first, visual = _min_vae_v1(), _av_vae()
    arguments = {**visual.pair.arguments, "version": 2, "visual_activation": "relu"}
    audio_init, _ = first.pretrained
    return replace(
        first,
        pair=replace(first.pair, arguments=arguments, lips=visual.pair.lips),
        augmentations=visual.augmentations,
        pretrained=(
            replace(audio_init, parts={k: v for k, v in audio_init.parts.items() if k.startswith("guide")}),
            PretrainedInit(
                "av-vae",
                {
                    "model.decoder": "model.decoder",
                    "model.lips": "model.lips",
                    "model.prior.network": "guide.branches.0.network.network",
                },
            ),
        ),
    )


def _vae_mm() -> Recipe:
    """A trained A-VAE and AV-VAE as they are, and a network that learns which lips were corrupted."""
    audio, visual, lips = _a_vae(), _av_vae(), LipShapeFrontEnd()
    arguments = {
        "first": {**audio.pair.arguments, **CONTEXT},
        "second": visual.pair.arguments,
        "pi": 0.05,
    }
    return Recipe(
        replace(
            visual.pair, architecture="vae-mm", arguments=arguments, lips=lips, algorithm="mcem-anchored"
        ),
        TrainingSettings(max_epochs=8, weight_decay=0.05, keep="last"),
        (ShapeAugmentation(lips, hidden=0.02),),
        {
            "batch_size": 256,
            "epoch_frames": 64_000,
            "max_utterances": 25,
            "balance": 0.75,
            "lip_corruption": LipCorruption(copies=3, labelled=True),
        },
        objective=lambda pair: AlphaLikelihood(),
        pretrained=(
            PretrainedInit("a-vae", {"model": "model.components.1", "guide": "guide.branches.1"}),
            PretrainedInit("av-vae", {"model": "model.components.0", "guide": "guide.branches.0"}),
        ),
        trainable=("model.corruption_classifier",),
    )


def _a_v_av() -> Recipe:
    """The trained A-, V- and AV-VAE and the classifier of the VAE-MM; the V-VAE's encoder of lips learns.

    The encoder of the trained V-VAE reads pixels and those of the others shapes of the mouth, so that one of
    shapes is trained under the bound of the V-VAE, whose decoder stays.
    """
    mixture, visual = _vae_mm(), _v_vae()
    first, third = mixture.pair.arguments["first"], mixture.pair.arguments["second"]
    arguments = {"first": first, "second": visual.pair.arguments, "third": third, "pi": (0.05, 0.15, 0.8)}
    return replace(
        visual,
        pair=replace(mixture.pair, architecture="a-v-av", arguments=arguments, algorithm="mcem-mixture"),
        objective=visual_component_alone,
        pretrained=(
            PretrainedInit("a-vae", {"model": "model.components.2", "guide": "guide.branches.2"}),
            PretrainedInit("v-vae", {"model": "model.components.1"}),
            PretrainedInit("av-vae", {"model": "model.components.0", "guide": "guide.branches.0"}),
            PretrainedInit("vae-mm", {"model.corruption_classifier": "model.corruption_classifier"}),
        ),
        trainable=("guide.branches.1",),
    )


def _papers_v_vae() -> Recipe:
    """4489-512-128-32 and 32-128-513: Sadeghi et al., TASLP 2020."""
    audio = _papers_a_vae()
    arguments = {"latent_size": 32, "trunk": "papers", "encoder": (), "decoder": (128,)}
    arguments["decoder_activation"] = "tanh"
    lips = LipFrontEnd(side=67, instants=1, normalised=False)
    return replace(audio, pair=replace(audio.pair, architecture="v-vae", arguments=arguments, lips=lips))


def _papers_av_vae() -> Recipe:
    """The papers' nets with one trunk for encoder, decoder and prior network."""
    visual = _papers_v_vae()
    arguments = {
        "latent_size": 32,
        "trunk": "papers",
        "encoder": (128,),
        "decoder": (128,),
        "features": "power",
        "decoder_activation": "tanh",
    }
    return replace(
        visual,
        pair=replace(visual.pair, architecture="av-vae", arguments=arguments),
        objective=prior_mixed,
        callbacks=(FrozenAudioPath(0.2),),
    )


def _papers_av_vae_standard() -> Recipe:
    """The papers' AV-VAE with z ~ N(0, I), in encoder and decoder alone: Sadeghi et al., TASLP 2020.

    Its objective is the evidence lower bound: there is no prior network to train.
    """
    recipe = _papers_av_vae()
    return replace(
        recipe,
        pair=replace(recipe.pair, arguments={**recipe.pair.arguments, "prior": "standard"}),
        objective=lambda pair: None,
    )


def _papers_vae_mm() -> Recipe:
    """The papers' A-VAE and AV-VAE, each under its own objective, and pi = 1/2: ICASSP 2020.

    In the paper both are trained before; here they are trained side by side, from no common parameters. The
    audio path is frozen in a fifth of the steps of both.
    """
    audio, visual = _papers_a_vae(), _papers_av_vae()
    return replace(
        visual,
        pair=replace(
            visual.pair,
            architecture="vae-mm",
            arguments={
                "first": audio.pair.arguments,
                "second": visual.pair.arguments,
                "corruption_embedding_size": 0,
            },
            algorithm="paper-vem",
        ),
        objective=components_apart,
    )


def papers_min_vae(version: int = 1, audio: str = "", visual: str = "") -> Recipe:
    """The papers' MIN-VAE, under the bound with the optimal r(alpha): TSP 2021.

    100 epochs; 50 U(0, 1) is added to the power that the audio encoder reads in a third of the frames. The
    papers begin with a trained A-VAE and a trained V-VAE (version 2: AV-VAE) of their sizes, which do not
    ship; given them:

        run(papers_min_vae(1, "runs/a/pair", "runs/v/pair"), corpora, out)

    Args:
        version: 1 for a decoder that sees z alone, 2 for one that also sees the lips.
        audio: folder of a pair of "a-vae-paper", for the audio encoder; "" begins at random.
        visual: folder of a pair of "v-vae-paper" (version 1) or "av-vae-paper" (version 2), for the decoder
            and the encoder of lips; likewise.
    """
    lips = _papers_v_vae()
    arguments = {
        "version": version,
        "latent_size": 32,
        "trunk": "papers",
        "visual_encoder": () if version == 1 else (128,),
        "visual_activation": "relu",
        "audio_encoder": (128,),
        "decoder": (128,),
        "decoder_activation": "tanh",
        "features": "power",
    }
    seen = {"model.decoder": "model.decoder"}
    if version == 1:
        seen |= {"guide.lips": "guide.branches.0.lips", "guide.network": "guide.branches.0.network"}
    else:
        seen |= {
            "model.lips": "model.lips",
            "model.prior.network": "guide.branches.0.network.network",
        }
    starts = (
        PretrainedInit(audio, {"guide.encoder": "guide.branches.1.encoder"}),
        PretrainedInit(visual, seen),
    )
    return replace(
        lips,
        pair=replace(lips.pair, architecture="min-vae", arguments=arguments, algorithm="paper-vem"),
        settings=replace(lips.settings, max_epochs=100, patience=100),
        corruption=UniformNoise(),
        pretrained=tuple(start for start in starts if start.pair),
    )


def without_corruption(recipe: Recipe) -> Recipe:
    """The recipe with a guide that reads clean sound in training, too.

    Raises:
        InputError: it does already.
    """
    if recipe.corruption is None:
        raise InputError(f"{recipe.name or recipe.pair.architecture}: its guide reads clean sound already")
    return replace(recipe, corruption=None)


def bound_of_sequences(pair: SpeechPair) -> Objective:
    """The evidence lower bound of pieces of speech (B, N, F)."""
    return MeanOfRecordings(AnalyticKLTraceEnumELBO(max_plate_nesting=2))


def components_apart(pair: SpeechPair) -> Objective:
    """The bound of the A-VAE and the prior-mixed bound of the AV-VAE of a VAE-MM, summed."""
    model, guide = pair.model, pair.guide
    assert isinstance(model, VAEMM)
    assert isinstance(guide, MixtureGuide)
    assert isinstance(model.second, AVVAE)
    prior = VisualGuide(model.second.lips, model.second.prior)
    return SumOfBounds(
        [
            (model.first, guide.branch(1), AnalyticKLTraceEnumELBO(max_plate_nesting=1)),
            (model.second, guide.branch(0), PriorMixedELBO(prior, 0.1)),
        ]
    )


def visual_component_alone(pair: SpeechPair) -> Objective:
    """The bound of the V-VAE of a mixture of A-, V- and AV-VAE."""
    assert isinstance(pair.guide, MixtureGuide)
    bound = AnalyticKLTraceEnumELBO(max_plate_nesting=1)
    return SumOfBounds([(pair.model.component_models()[1], pair.guide.branch(1), bound)])


def prior_mixed(pair: SpeechPair, prior_weight: float = 0.1) -> Objective:
    """The objective of the AV-VAE, in which its prior also serves as a guide."""
    assert isinstance(pair.model, AVVAE)
    return PriorMixedELBO(VisualGuide(pair.model.lips, pair.model.prior), prior_weight)


def visual_branch_mixed(pair: SpeechPair, weight: float = 0.1) -> Objective:
    """The bound of a MIN-VAE, and for a share of `weight` that of its visual branch alone.

    Sound explains clean speech by hundreds of nats better than lips do, so that r(alpha) leaves the visual
    branch nothing to learn from; both are lower bounds, and so is the mix.
    """
    assert isinstance(pair.guide, MixtureGuide)
    return PriorMixedELBO(BranchGuide(pair.guide, 0), weight)


_BUILDERS: dict[str, Callable[[], Recipe]] = {
    "a-vae": _a_vae,
    "a-vae-all-clips": _a_vae_all_clips,
    "a-vae-context": _a_vae_context,
    "vae-mm-context": _vae_mm_context,
    "v-vae": _v_vae,
    "av-vae": _av_vae,
    "visual-prior": _visual_prior,
    "min-vae-v1": _min_vae_v1,
    "min-vae-v2": _min_vae_v2,
    "vae-mm": _vae_mm,
    "a-v-av": _a_v_av,
    "dkf": _dkf,
    "av-dkf": _av_dkf,
    "rvae": _rvae,
    "a-vae-paper": _papers_a_vae,
    "v-vae-paper": _papers_v_vae,
    "av-vae-paper": _papers_av_vae,
    "av-vae-standard-paper": _papers_av_vae_standard,
    "vae-mm-paper": _papers_vae_mm,
    "min-vae-v1-paper": papers_min_vae,
    "min-vae-v2-paper": partial(papers_min_vae, 2),
}


def _named(name: str) -> Recipe:
    return replace(_BUILDERS[name](), name=name)


RECIPES: dict[str, Callable[[], Recipe]] = {name: partial(_named, name) for name in _BUILDERS}
"""Name -> the recipe."""


def run(
    recipe: Recipe,
    corpora: Sequence[Corpus],
    out: Path,
    device: str = "cpu",
    resume: bool = False,
    licence: str = "unknown",
    progress: Callable[[float], None] | None = None,
    **data: Any,
) -> tuple[SpeechPair, TrainingReport]:
    """Train the pair of a recipe on corpora and save it in `out`/pair, with a card and `out`/report.json.

    Runs of equal seed, machine and number of threads give equal weights; a run that was killed and resumed
    agrees with one that was not. The global generators are not moved.

    Args:
        recipe: what and how.
        corpora: speech; their train split trains, their validation split decides when to stop.
        out: folder of the run.
        device: "cpu", "cuda", "mps", or "auto" for a GPU where there is one.
        resume: go on with the run in `out`.
        licence: of the weights, for the card; it depends on that of the speech.
        progress: told the share of all epochs that is done; by default a bar on stderr.
        data: further arguments of the recipe's loader, such as `cache`.

    Raises:
        InputError: no such device, another run in `out`, nothing to resume or a run of another recipe or
            other settings, before the corpora are read; or a corpus that cannot be used.
    """
    if progress is None:
        with progress_bar("training") as shown:
            return run(recipe, corpora, out, device, resume, licence, shown, **data)
    gpu = "cuda" if torch.cuda.is_available() else "cpu"
    where, out = checked_device(gpu if device == "auto" else device), Path(out)
    record = {
        "recipe": recipe.name,
        "corpora": [{"name": corpus.name} for corpus in corpora],
        "settings": asdict(recipe.settings),
        "pair": recipe.pair.to_dict(),
        "data": {name: repr(value) for name, value in recipe.data.items()},
        "corruption": repr(recipe.corruption),
    }
    with exclusive_run(out), torch.random.fork_rng(devices=[]):
        checkpoint = starting_checkpoint(out, resume, record)
        torch.manual_seed(recipe.settings.seed)
        pair = SpeechPair(recipe.pair, name=recipe.name)
        seen = {} if recipe.pair.lips is None else {"lips": recipe.pair.lips}
        module = recipe.loader(
            corpora,
            recipe.pair.front_end,
            **seen,
            seed=recipe.settings.seed % MAX_DATA_SEED,
            **{**recipe.data, **data},
        )
        module.device = str(where)
        module.setup("fit")
        svi = _prepared(recipe, pair, module)
        report = fit(svi, module, out, checkpoint, where, recipe.callbacks, progress)
        pair.to("cpu")
        facts = {**asdict(report), **record, "device": str(where), "threads": torch.get_num_threads()}
        facts |= {"versions": versions(), "weights_sha256": pair.fingerprint()}
        pair.card = training_card(pair.config, facts, licence)
        pair.save_pretrained(out / "pair")
        write_report(out, facts)
    return pair, report


MAX_DATA_SEED = 2**40
"""Multiples of a seed of batches stay within 64 bits."""


def _prepared(recipe: Recipe, pair: SpeechPair, module: TrainingData) -> SVI:
    """The pair with its scales and starting weights, under the objective of the recipe."""
    sample = module.scale_frames()
    pair.model.fit_scales(sample)
    pair.guide.fit_scales(sample)
    for start in recipe.pretrained:
        start(pair)
    for name, parameter in pair.modules().named_parameters():
        parameter.requires_grad_(any(f"{name}.".startswith(f"{part}.") for part in recipe.trainable))
    guide = pair.guide if recipe.corruption is None else corrupted(pair.guide, recipe.corruption)
    return SVI(pair.model, guide, recipe.settings, recipe.objective(pair), recipe.augmentations)
