"""Training of a model and its guide: stochastic variational inference under Lightning.

The loss is minus the evidence lower bound per frame, in nats:

    -(1 / B) sum_n E_q [ log p(s_n, z_n, alpha_n | v_n) - log q(z_n, alpha_n | s_n, v_n) ].

Lightning brings early stopping, checkpoints, resuming and devices. The randomness of an epoch depends on the
seed and the epoch alone, so that a resumed run repeats an uninterrupted one: exactly in the same process on a
CPU with the same number of threads, else to within rounding, which training amplifies. Checkpoints are
written whole or not at all: a run may be killed at any moment and resumed.
"""

import csv
import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from pyro.nn import PyroModule
from torch import Tensor

from avse.checks import checked_count, checked_device, checked_seed
from avse.data.augmentation import Augmentation
from avse.data.datamodule import Batch, TrainingData
from avse.data.files import atomic_path, made_folder
from avse.inference.svi.checkpoints import (
    AtomicCheckpointIO,
    exclusive_run,
    read_checkpoint,
    starting_checkpoint,
)
from avse.inference.svi.elbo import AnalyticKLTraceEnumELBO, Objective
from avse.inference.svi.interrupts import keyboard_interrupts
from avse.inference.svi.seeds import step_seed
from avse.models.networks.lips import cached_embeddings
from avse.models.networks.spectrum import POWER_FLOOR
from avse.models.parameters import local_parameters


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
        gradient_norm: gradients are clipped to this norm, None for not.
        keep: weights of the epoch with the "best" validation loss, or of the "last" one, where the loss hangs
            on few frames and the learning rate has come to rest.
        seed: of all randomness, from 0 to 2^63 - 1.

    Raises:
        InputError: no whole number of at least one epoch, or a seed out of range.
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

    def __post_init__(self) -> None:
        object.__setattr__(self, "seed", checked_seed(self.seed))
        object.__setattr__(self, "max_epochs", checked_count(self.max_epochs, "epochs"))
        object.__setattr__(self, "patience", checked_count(self.patience, "patience"))


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
        with cached_embeddings(), local_parameters():
            loss = self.elbo.differentiable_loss(self.model, self.guide, **batch)
        return loss / batch["power"].shape[-2]

    def training_step(self, batch: Batch, index: int) -> Tensor:
        """One step of stochastic gradient, its draws seeded by the number of the step."""
        torch.manual_seed(step_seed(self.settings.seed, self.global_step))
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


class EpochHistory(Callback):
    """Losses of every epoch, which travel with the checkpoints: a resumed run knows the whole course.

    Args:
        path: CSV file that is written anew after every epoch.
        progress: told the share of all epochs that is done.
    """

    def __init__(self, path: Path, progress: Callable[[float], None]) -> None:
        self.path = path
        self.progress = progress
        self.rows: list[dict[str, Any]] = []

    def state_dict(self) -> dict[str, Any]:
        """The rows, for a checkpoint."""
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from the rows of a checkpoint."""
        self.rows = list(state_dict["rows"])

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Tell how far the run is."""
        epochs = trainer.current_epoch + (batch_idx + 1) / trainer.num_training_batches
        self.progress(epochs / (trainer.max_epochs or 1))

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Add a row and write the file."""
        losses = {name: float(trainer.callback_metrics[name]) for name in LOSSES}
        self.rows.append({"epoch": trainer.current_epoch, **losses})
        made_folder(self.path.parent)
        with atomic_path(self.path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, ["epoch", *LOSSES])
            writer.writeheader()
            writer.writerows(self.rows)


LOSSES = ("train_loss", "validation_loss")


@contextmanager
def only_warnings(logger: str) -> Iterator[None]:
    """Inside, a logger tells warnings alone, and neither hints nor advertisements."""
    log = logging.getLogger(logger)
    level = log.level
    log.setLevel(logging.WARNING)
    try:
        yield
    finally:
        log.setLevel(level)


@dataclass(frozen=True)
class TrainingReport:
    """Summary of a training run.

    Attributes:
        validation_elbo: validation bound a frame of the weights that were kept, nats; None if not finite.
        epochs: epochs run.
        seconds: wall time of the run, since it was last resumed.
        train_frames: number of training frames.
        history: one row an epoch: epoch, train_loss, validation_loss.
    """

    validation_elbo: float | None
    epochs: int
    seconds: float
    train_frames: int
    history: list[dict[str, float]]


def train(
    svi: SVI,
    data: TrainingData,
    out: Path,
    device: str = "cpu",
    resume: bool = False,
    callbacks: Sequence[Callback] = (),
) -> TrainingReport:
    """Fit model and guide; they end up with the weights that `settings.keep` names, in evaluation mode.

    Writes into `out`: checkpoints/last.ckpt and best.ckpt, log/metrics.csv, run.json, report.json.

    Args:
        svi: what to train.
        data: where from.
        out: folder of the run, made when missing.
        device: "cpu", "cuda" or "mps".
        resume: go on from `out`/checkpoints/last.ckpt, or from best.ckpt where that is damaged.
        callbacks: further Lightning callbacks.

    Raises:
        InputError: no such device, another run in `out`, `resume` without a checkpoint that is whole or with
            other settings.
    """
    checked_device(device)
    out = Path(out)
    with exclusive_run(out):
        record = {"settings": asdict(svi.settings)}
        report = fit(svi, data, out, starting_checkpoint(out, resume, record), device, callbacks)
        write_report(out, {**asdict(report), **record})
    return report


def fit(
    svi: SVI,
    data: TrainingData,
    out: Path,
    checkpoint: Path | None = None,
    device: str | torch.device = "cpu",
    callbacks: Sequence[Callback] = (),
    progress: Callable[[float], None] = lambda fraction: None,
) -> TrainingReport:
    """As `train`, in a folder that is held by `exclusive_run`, without a report; no generator is moved.

    Args:
        svi: what to train.
        data: where from.
        out: folder of the run.
        checkpoint: where to go on from, or None.
        device: to train on.
        callbacks: further Lightning callbacks.
        progress: told the share of all epochs that is done.
    """
    where = torch.device(device)
    folder = out / "checkpoints"
    best = ModelCheckpoint(folder, "best", monitor="validation_loss", enable_version_counter=False)
    # After every epoch: `save_last` of `best` would save only when the validation loss improves.
    latest = ModelCheckpoint(folder, "last", enable_version_counter=False)
    history = EpochHistory(out / "log" / "metrics.csv", progress)
    with only_warnings("lightning.pytorch"):
        trainer = L.Trainer(
            accelerator=where.type,
            devices=1 if where.index is None or where.type == "cpu" else [where.index],
            max_epochs=svi.settings.max_epochs,
            callbacks=[
                EarlyStopping("validation_loss", patience=svi.settings.patience),
                *callbacks,
                history,
                best,
                latest,
            ],
            logger=False,
            plugins=[AtomicCheckpointIO()],
            gradient_clip_val=svi.settings.gradient_norm,
            num_sanity_val_steps=0,
            enable_model_summary=False,
            enable_progress_bar=False,
        )
    start = time.perf_counter()
    devices = range(torch.cuda.device_count()) if where.type == "cuda" else ()
    with torch.random.fork_rng(devices=devices), only_warnings("lightning.pytorch"), keyboard_interrupts():
        trainer.fit(svi, data, ckpt_path=None if checkpoint is None else str(checkpoint))
    kept_best = svi.settings.keep == "best" and (folder / "best.ckpt").is_file()
    kept = folder / ("best.ckpt" if kept_best else "last.ckpt")
    svi.load_state_dict(read_checkpoint(kept)["state_dict"])
    svi.eval()
    loss = best.best_model_score if kept_best else history.rows[-1]["validation_loss"]
    return TrainingReport(
        validation_elbo=None if loss is None or not math.isfinite(float(loss)) else -float(loss),
        epochs=trainer.current_epoch,
        seconds=time.perf_counter() - start,
        train_frames=data.train_frames,
        history=history.rows,
    )


def write_report(out: Path, values: Mapping[str, Any]) -> None:
    """Write report.json, whole or not at all; numbers that are not finite become null."""
    with atomic_path(out / "report.json") as temporary:
        text = json.dumps(_finite(values), indent=1, allow_nan=False)
        temporary.write_text(text + "\n", encoding="utf-8")


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_history(path: Path) -> list[dict[str, float]]:
    """Epoch, train_loss and validation_loss of every epoch of a CSV log, one row each."""
    rows: dict[int, dict[str, Any]] = {}
    if not path.is_file():  # a run that had ended already
        return []
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            epoch = rows.setdefault(int(row["epoch"]), {"epoch": int(row["epoch"])})
            epoch.update({k: float(v) for k, v in row.items() if v and k.endswith("_loss")})
    return [rows[epoch] for epoch in sorted(rows)]
