"""Training of a model and its guide: stochastic variational inference under Lightning.

The loss is minus the evidence lower bound per frame, in nats:

    -(1 / B) sum_n E_q [ log p(s_n, z_n, alpha_n | v_n) - log q(z_n, alpha_n | s_n, v_n) ].

Lightning brings early stopping, checkpoints, resuming, progress bars, logs and devices. The randomness of an
epoch depends on the seed and the epoch alone, so that a resumed run repeats an uninterrupted one bit for bit
on a CPU.
"""

import csv
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from pyro.nn import PyroModule
from torch import Tensor, nn

from avse.data.augmentation import Augmentation
from avse.data.datamodule import Batch, FrameDataModule
from avse.data.errors import InputError
from avse.inference.svi.elbo import AnalyticKLTraceEnumELBO
from avse.models.networks.lips import cached_embeddings
from avse.models.networks.spectrum import POWER_FLOOR

VISUAL_PATH = frozenset({"lips", "prior", "condition", "network", "corruption_classifier"})
"""Names of the submodules of models and guides that process the lips."""


@dataclass(frozen=True)
class TrainingSettings:
    """Settings of the optimiser and of the training loop.

    Args:
        learning_rate: initial learning rate of Adam.
        annealed: cosine annealing of the learning rate to zero over all epochs; else it is constant.
        weight_decay: weight decay of AdamW; 0 is Adam.
        max_epochs: maximum number of epochs.
        patience: epochs without a better validation loss before stopping.
        power_floor: added to every power. Without it, digital silence would require a log variance of
            minus infinity, and faint noise would contribute as many nats as speech.
        kl_warmup: steps over which the weight of the KL term rises from 0.1 to 1.
        gradient_norm: gradients are clipped to this norm; None does not clip.
        keep: "best" keeps the weights of the epoch with the best validation loss, "last" those of the last
            epoch, for a validation loss over few frames and an annealed learning rate.
        seed: seed of all random numbers.
    """

    learning_rate: float = 1e-3
    annealed: bool = True
    weight_decay: float = 0.0
    max_epochs: int = 200
    patience: int = 20
    power_floor: float = POWER_FLOOR
    kl_warmup: int = 0
    gradient_norm: float | None = None
    keep: Literal["best", "last"] = "best"
    seed: int = 0


class Objective(Protocol):
    """A lower bound whose negative is minimised."""

    kl_weight: float

    def differentiable_loss(self, model: Any, guide: Any, **batch: Tensor) -> Tensor:
        """Minus the lower bound, summed over frames, nats."""
        ...


class SVI(L.LightningModule):
    """Model and guide under one evidence lower bound.

    Args:
        model: Pyro model, called with a batch as keyword arguments.
        guide: its guide, same arguments.
        settings: optimiser and seed.
        elbo: the objective.
        augmentations: applied to training batches in order.
    """

    def __init__(
        self,
        model: PyroModule,
        guide: PyroModule,
        settings: TrainingSettings,
        elbo: Objective | None = None,
        augmentations: Sequence[Augmentation] = (),
    ) -> None:
        super().__init__()
        self.model = model
        self.guide = guide
        self.settings = settings
        self.elbo: Objective = elbo or AnalyticKLTraceEnumELBO(max_plate_nesting=1)
        self.augmentations = augmentations

    def loss(self, batch: Batch) -> Tensor:
        """Minus the lower bound per frame, nats."""
        batch = {**batch, "power": batch["power"] + self.settings.power_floor}
        with cached_embeddings():
            loss = self.elbo.differentiable_loss(self.model, self.guide, **batch)
        return loss / batch["power"].shape[-2]

    def training_step(self, batch: Batch, index: int) -> Tensor:
        """One step of stochastic gradient, its draws seeded by the number of the step."""
        torch.manual_seed(self.settings.seed * 1_000_003 + self.global_step)
        for augmentation in self.augmentations:
            batch = augmentation(batch)
        self.elbo.kl_weight = self._kl_weight()
        loss = self.loss(batch)
        self.log(
            "train_loss", loss, on_step=False, on_epoch=True, prog_bar=True, batch_size=len(batch["power"])
        )
        return loss

    def _kl_weight(self) -> float:
        if self.settings.kl_warmup == 0:
            return 1.0
        return min(1.0, 0.1 + 0.9 * self.global_step / self.settings.kl_warmup)

    def validation_step(self, batch: Batch, index: int) -> None:
        """Log the loss on held-out frames, with the same random draws every epoch."""
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.manual_seed(index)
            self.elbo.kl_weight = 1.0
            loss = self.loss(batch).detach()
        self.log("validation_loss", loss, prog_bar=True, batch_size=len(batch["power"]))

    def configure_optimizers(self) -> Any:
        """Adam, with decoupled weight decay if asked for, and its schedule."""
        optimizer = torch.optim.AdamW(
            self.parameters(), lr=self.settings.learning_rate, weight_decay=self.settings.weight_decay
        )
        if not self.settings.annealed:
            return optimizer
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class FrozenAudioPath(Callback):
    """Freeze the audio path in a random fraction of the steps, so that the model learns to use the lips.

    The visual path consists of the submodules named in `VISUAL_PATH`: trunks, the layers that read their
    embedding, and prior networks.

    Args:
        probability: probability that the audio path is frozen in a step.
        seed: seed of the choice, which depends only on it and on the number of the step.
    """

    def __init__(self, probability: float = 0.2, seed: int = 0) -> None:
        self.probability = probability
        self.seed = seed
        self.frozen: list[nn.Parameter] = []

    def on_train_batch_start(self, trainer: L.Trainer, module: L.LightningModule, *batch: Any) -> None:
        """Freeze the trainable parameters of the audio path with the given probability."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + trainer.global_step)
        if torch.rand((), generator=generator) < self.probability:
            self.frozen = [parameter for parameter in audio_path(module) if parameter.requires_grad]
        for parameter in self.frozen:
            parameter.requires_grad_(False)

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *batch: Any) -> None:
        """Unfreeze the parameters that were frozen for this step."""
        for parameter in self.frozen:
            parameter.requires_grad_(True)
        self.frozen = []


def audio_path(module: nn.Module) -> list[nn.Parameter]:
    """The parameters of a model and guide that do not belong to the visual path."""
    return [p for name, p in module.named_parameters() if not VISUAL_PATH & set(name.split("."))]


@dataclass(frozen=True)
class TrainingReport:
    """Summary of a training run.

    Attributes:
        validation_elbo: validation lower bound per frame of the kept weights, nats.
        epochs: number of epochs.
        seconds: wall-clock time of the run.
        train_frames: number of training frames.
        history: one row per epoch of the CSV log: epoch, train_loss, validation_loss.
    """

    validation_elbo: float
    epochs: int
    seconds: float
    train_frames: int
    history: list[dict[str, float]]


def train(
    svi: SVI,
    data: FrameDataModule,
    out: Path,
    device: str = "cpu",
    resume: bool = False,
    callbacks: Sequence[Callback] = (),
) -> TrainingReport:
    """Fit model and guide; they end up with the weights that `settings.keep` names, in evaluation mode.

    Writes into `out`: checkpoints/last.ckpt and best.ckpt, log/metrics.csv, report.json.

    Args:
        svi: the model, guide and objective to train.
        data: training and validation frames.
        out: folder of the run, created if missing.
        device: "cpu", "cuda", "mps" or any Lightning accelerator.
        resume: continue from `out`/checkpoints/last.ckpt.
        callbacks: further Lightning callbacks.

    Raises:
        InputError: `resume` without a checkpoint.
    """
    out = Path(out)
    last = out / "checkpoints" / "last.ckpt"
    if resume and not last.is_file():
        raise InputError(f"{last}: no checkpoint to resume from; leave out --resume to start anew")
    folder = out / "checkpoints"
    best = ModelCheckpoint(folder, "best", monitor="validation_loss", enable_version_counter=False)
    # After every epoch: `save_last` of `best` would save only when the validation loss improves.
    latest = ModelCheckpoint(folder, "last", enable_version_counter=False)
    earlier = read_history(out / "log" / "metrics.csv") if resume else []
    trainer = L.Trainer(
        accelerator=device,
        devices=1,
        max_epochs=svi.settings.max_epochs,
        callbacks=[
            EarlyStopping("validation_loss", patience=svi.settings.patience),
            *callbacks,
            best,
            latest,
        ],
        logger=CSVLogger(out, name="", version="log"),
        gradient_clip_val=svi.settings.gradient_norm,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        enable_model_summary=False,
    )
    start = time.perf_counter()
    trainer.fit(svi, data, ckpt_path=str(last) if resume else None)
    kept = best.best_model_path if svi.settings.keep == "best" else last
    svi.load_state_dict(torch.load(kept, map_location="cpu", weights_only=True)["state_dict"])
    svi.eval()
    history = read_history(out / "log" / "metrics.csv")
    final = trainer.callback_metrics.get("validation_loss")  # none if the run had ended already
    loss = best.best_model_score if svi.settings.keep == "best" else final
    report = TrainingReport(
        validation_elbo=float("nan") if loss is None else -float(loss),
        epochs=trainer.current_epoch,
        seconds=time.perf_counter() - start,
        train_frames=len(data.frames("train")),
        history=list({row["epoch"]: row for row in [*earlier, *history]}.values()),
    )
    (out / "report.json").write_text(json.dumps(asdict(report), indent=1))
    return report


def read_history(path: Path) -> list[dict[str, float]]:
    """Epoch, train_loss and validation_loss of every epoch of a CSV log, one row each."""
    rows: dict[int, dict[str, Any]] = {}
    if not path.is_file():  # a run that had ended already
        return []
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            epoch = rows.setdefault(int(row["epoch"]), {"epoch": int(row["epoch"])})
            epoch.update({k: float(v) for k, v in row.items() if v and k.endswith("_loss")})
    return [rows[epoch] for epoch in sorted(rows)]
