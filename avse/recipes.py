"""How the pairs of the zoo are trained: everything that `avse train` needs besides the speech itself."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from avse.data.corpora.base import Corpus
from avse.data.datamodule import FrameDataModule
from avse.data.front_end import FrontEnd
from avse.data.stft import STFT
from avse.inference.training import (
    SVI,
    Augmentation,
    EqualiserAugmentation,
    LevelAugmentation,
    TrainingReport,
    TrainingSettings,
    train,
)
from avse.pair import PairConfig, SpeechPair


@dataclass(frozen=True)
class Recipe:
    """A way to train one pair.

    Attributes:
        pair: what is trained.
        settings: optimiser, length and seed.
        augmentations: of the training frames.
        data: keyword arguments of `FrameDataModule`.
    """

    pair: PairConfig
    settings: TrainingSettings
    augmentations: Sequence[Augmentation]
    data: dict[str, Any]


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


RECIPES = {"a-vae": _a_vae, "a-vae-paper": _papers_a_vae}


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
        seed=recipe.settings.seed,
        **{**recipe.data, **data},
    )
    frames = module.frames("train").power
    sample = frames[:: max(1, len(frames) // 20_000)]
    pair.model.fit_scales(sample)
    pair.guide.fit_scales(sample)
    svi = SVI(pair.model, pair.guide, recipe.settings, augmentations=recipe.augmentations)
    report = train(svi, module, out, device=device, resume=resume)
    pair.to("cpu")
    pair.save_pretrained(Path(out) / "pair")
    return pair, report
