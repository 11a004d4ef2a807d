"""Freezing the audio path of an audio-visual model in a random fraction of the training steps."""

from collections.abc import Sequence
from functools import singledispatch
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import nn

from avse.guides.audio_visual import AudioVisualGuide
from avse.guides.visual import VisualGuide
from avse.inference.svi.seeds import step_seed
from avse.models.av_vae import AVVAE, VisualPrior
from avse.models.min_vae import MINVAE
from avse.models.networks.lips import LipCorruptionClassifier, LipTrunk
from avse.models.networks.spectrum import GaussianEncoder, SpectrumDecoder


class FrozenAudioPath(Callback):
    """Freeze the audio path in a random fraction of the steps, so that the model learns to use the lips.

    The visual path are trunks, what reads their embedding, and prior networks: see `visual_parts`.

    Args:
        probability: probability that the audio path is frozen in a step.
        seed: seed of the choice, which depends only on it and on the number of the step.
    """

    def __init__(self, probability: float = 0.2, seed: int = 0) -> None:
        self.probability = probability
        self.seed = seed
        self.frozen: list[nn.Parameter] = []

    def on_train_batch_start(self, trainer: L.Trainer, module: L.LightningModule, *batch: Any) -> None:
        """Draw, and freeze what learns and is not of the visual path."""
        generator = torch.Generator().manual_seed(step_seed(self.seed, trainer.global_step))
        if torch.rand((), generator=generator) < self.probability:
            self.frozen = [parameter for parameter in audio_path(module) if parameter.requires_grad]
        for parameter in self.frozen:
            parameter.requires_grad_(False)

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *batch: Any) -> None:
        """Unfreeze the parameters that were frozen for this step."""
        for parameter in self.frozen:
            parameter.requires_grad_(True)
        self.frozen = []


@singledispatch
def visual_parts(module: nn.Module) -> Sequence[Any]:
    """Those of a module's own parts that process the lips and nothing else; none by default.

    Further types are registered with `visual_parts.register`.
    """
    return ()


@visual_parts.register(LipTrunk)
@visual_parts.register(VisualPrior)
@visual_parts.register(LipCorruptionClassifier)
def _(module: nn.Module) -> Sequence[Any]:
    return (module,)


@visual_parts.register(GaussianEncoder)
@visual_parts.register(SpectrumDecoder)
def _(module: GaussianEncoder | SpectrumDecoder) -> Sequence[Any]:
    return (module.condition,)


@visual_parts.register
def _(module: AVVAE) -> Sequence[Any]:
    return (module.lips, module.prior)


@visual_parts.register
def _(module: VisualGuide) -> Sequence[Any]:
    return (module.lips, module.network)


@visual_parts.register(AudioVisualGuide)
@visual_parts.register(MINVAE)
def _(module: AudioVisualGuide | MINVAE) -> Sequence[Any]:
    return (module.lips,)


def audio_path(module: nn.Module) -> list[nn.Parameter]:
    """The parameters of a model and guide that do not belong to the visual path (see `visual_parts`)."""
    visual = {
        id(parameter)
        for each in module.modules()
        for part in visual_parts(each)
        if isinstance(part, nn.Module)
        for parameter in part.parameters()
    }
    return [parameter for parameter in module.parameters() if id(parameter) not in visual]
