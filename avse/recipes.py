"""How the pairs of the zoo are trained: everything that `avse train` needs besides the speech itself."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import Callback

from avse.data.corpora.base import Corpus
from avse.data.datamodule import FrameDataModule
from avse.data.front_end import FrontEnd
from avse.data.lip_front_end import LipFrontEnd
from avse.data.stft import STFT
from avse.guides.corrupted import CorruptedGuide, Corruption
from avse.guides.visual import VisualGuide
from avse.inference.augmentation import (
    Augmentation,
    ColouredNoise,
    EqualiserAugmentation,
    LevelAugmentation,
    LipAugmentation,
)
from avse.inference.elbo import PriorMixedELBO
from avse.inference.training import (
    SVI,
    FrozenAudioPath,
    Objective,
    TrainingReport,
    TrainingSettings,
    train,
)
from avse.models.av_vae import AVVAE
from avse.pair import PairConfig, SpeechPair


@dataclass(frozen=True)
class Recipe:
    """A way to train one pair.

    Attributes:
        pair: what is trained.
        settings: optimiser, length and seed.
        augmentations: of the training frames.
        data: keyword arguments of `FrameDataModule`.
        objective: the bound, made from the pair; the evidence lower bound by default.
        callbacks: further Lightning callbacks.
        corruption: of what the guide hears while it is trained, or None.
    """

    pair: PairConfig
    settings: TrainingSettings
    augmentations: Sequence[Augmentation]
    data: dict[str, Any]
    objective: Callable[[SpeechPair], Objective | None] = lambda pair: None
    callbacks: Sequence[Callback] = ()
    corruption: Corruption | None = None


def _a_vae() -> Recipe:
    """Log-power features, frames of many levels, colours and speeds."""
    return Recipe(
        PairConfig(
            "a-vae",
            {"latent_size": 32, "decoder_activation": "silu"},
            FrontEnd(STFT(hop_length=256), "rms", high_pass=70.0),
        ),
        TrainingSettings(learning_rate=1e-3, max_epochs=40, patience=8, kl_warm_up=1000, gradient_norm=200.0),
        (LevelAugmentation(-20.0, 5.0), EqualiserAugmentation(2.0)),
        {
            "batch_size": 256,
            "epoch_frames": 64_000,
            "max_utterances": 100,
            "speeds": (0.9, 1.0, 1.1),
        },
    )


def _papers_a_vae() -> Recipe:
    """513-128-32 and 32-128-513, raw power, Adam 1e-4: Sadeghi et al., TASLP 2020."""
    arguments = {"latent_size": 32, "encoder": (128,), "decoder": (128,), "features": "power"}
    return Recipe(
        PairConfig("a-vae", arguments, FrontEnd(STFT(), "peak")),
        TrainingSettings(learning_rate=1e-4, annealed=False, max_epochs=200, patience=20),
        (),
        {"batch_size": 128},
    )


def _a_vae_all_clips() -> Recipe:
    """The A-VAE on every clip of every speaker: what the audio-visual models are compared with."""
    recipe = _a_vae()
    return replace(recipe, data={**recipe.data, "max_utterances": None})


def _v_vae() -> Recipe:
    """Fifteen pictures around every frame, moved and lit at random, with dropout and weight decay."""
    audio, lips = _a_vae(), LipFrontEnd()
    return Recipe(
        replace(audio.pair, architecture="v-vae", arguments={"latent_size": 32}, lips=lips),
        replace(audio.settings, max_epochs=16, weight_decay=0.05),
        (LevelAugmentation(-15.0, 4.0), EqualiserAugmentation(1.0), LipAugmentation(lips)),
        {"batch_size": 256, "epoch_frames": 64_000},
    )


def _av_vae() -> Recipe:
    """As the V-VAE, with a prior network, and an encoder that hears badly while it learns to look."""
    visual = _v_vae()
    return replace(
        visual,
        pair=replace(visual.pair, architecture="av-vae", algorithm="mcem-lips"),
        settings=replace(visual.settings, max_epochs=36, patience=36, keep="last"),
        objective=prior_mixed,
        callbacks=(FrozenAudioPath(0.2),),
        corruption=ColouredNoise(),
    )


def _papers_v_vae() -> Recipe:
    """4489-512-128-32 and 32-128-513: Sadeghi et al., TASLP 2020."""
    audio = _papers_a_vae()
    arguments = {"latent_size": 32, "trunk": "papers", "encoder": (), "decoder": (128,)}
    arguments["decoder_activation"] = "tanh"
    lips = LipFrontEnd(side=67, pictures=1, normalised=False)
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


def prior_mixed(pair: SpeechPair, prior_weight: float = 0.1) -> Objective:
    """The objective of the AV-VAE, in which its prior also serves as a guide."""
    assert isinstance(pair.model, AVVAE)
    return PriorMixedELBO(VisualGuide(pair.model.lips, pair.model.prior), prior_weight)


RECIPES = {
    "a-vae": _a_vae,
    "a-vae-all-clips": _a_vae_all_clips,
    "v-vae": _v_vae,
    "av-vae": _av_vae,
    "a-vae-paper": _papers_a_vae,
    "v-vae-paper": _papers_v_vae,
    "av-vae-paper": _papers_av_vae,
}


def run(
    recipe: Recipe,
    corpora: Sequence[Corpus],
    out: Path,
    device: str = "cpu",
    resume: bool = False,
    **data: Any,
) -> tuple[SpeechPair, TrainingReport]:
    """Train the pair of a recipe on corpora and save it in `out`/pair.

    Args:
        recipe: what and how.
        corpora: speech; their train split trains, their validation split decides when to stop.
        out: folder of the run.
        device: Lightning accelerator.
        resume: go on with the run in `out`.
        data: further arguments of `FrameDataModule`, such as `cache`.
    """
    pair = SpeechPair(recipe.pair)
    module = FrameDataModule(
        corpora,
        recipe.pair.front_end,
        lips=recipe.pair.lips,
        seed=recipe.settings.seed,
        **{**recipe.data, **data},
    )
    frames = module.frames("train").power
    sample = frames[:: max(1, len(frames) // 20_000)]
    pair.model.fit_scales(sample)
    pair.guide.fit_scales(sample)
    guide = pair.guide if recipe.corruption is None else CorruptedGuide(pair.guide, recipe.corruption)
    svi = SVI(pair.model, guide, recipe.settings, recipe.objective(pair), recipe.augmentations)
    report = train(svi, module, out, device=device, resume=resume, callbacks=recipe.callbacks)
    pair.to("cpu")
    pair.save_pretrained(Path(out) / "pair")
    return pair, report
