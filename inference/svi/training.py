"""Training of a model and its guide: stochastic variational inference under Lightning.

The loss is minus the evidence lower bound per frame, in nats:

    -(1 / B) sum_n E_q [ log p(s_n, z_n, alpha_n | v_n) - log q(z_n, alpha_n | s_n, v_n) ].

Lightning brings early stopping, checkpoints, resuming and devices. The randomness of an epoch depends on the
seed and the epoch alone, so that a resumed run repeats an uninterrupted one: exactly in the same process on a
CPU with the same number of threads, else to within rounding, which training amplifies. Checkpoints are
written whole or not at all: a run may be killed at any moment and resumed.
"""

import csv
import fcntl
import json
import logging
import math
import os
import pickle
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import singledispatch
from pathlib import Path
from typing import Any, Literal, Protocol

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO
from pyro.nn import PyroModule
from torch import Tensor, nn

from avse.checks import checked_count, checked_device, checked_seed
from avse.data.augmentation import Augmentation
from avse.data.datamodule import Batch, FrameDataModule
from avse.data.errors import InputError
from avse.data.files import atomic_path, made_folder
from avse.guides.audio_visual import AudioVisualGuide
from avse.guides.visual import VisualGuide
from avse.inference.svi.elbo import AnalyticKLTraceEnumELBO
from avse.inference.svi.interrupts import keyboard_interrupts
from avse.models.av_vae import AVVAE, VisualPrior
from avse.models.min_vae import MINVAE
from avse.models.networks.lips import LipCorruptionClassifier, LipTrunk, cached_embeddings
from avse.models.networks.spectrum import POWER_FLOOR, GaussianEncoder, SpectrumDecoder
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


def step_seed(seed: int, step: int) -> int:
    """The seed of a step, within the 63 bits that every generator takes."""
    return (seed * 1_000_003 + step) % 2**63


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


class AtomicCheckpointIO(TorchCheckpointIO):
    """Checkpoints that are whole or absent."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write beside, then rename."""
        made_folder(Path(path).parent)
        with atomic_path(path) as temporary:
            torch.save(checkpoint, temporary)

    def load_checkpoint(self, path: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Tensors and plain values; no code in the file is run."""
        return read_checkpoint(Path(path))


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint of a run.

    Raises:
        InputError: it is empty, cut off or no checkpoint.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        if not {"state_dict", "callbacks", "loops"} <= checkpoint.keys():
            raise InputError(f"{path}: no checkpoint of a training run")
    except (
        OSError, EOFError, RuntimeError, AttributeError, KeyError, IndexError, TypeError,
        ValueError, pickle.UnpicklingError,
    ) as error:  # fmt: skip
        raise InputError(f"{path}: damaged checkpoint; train afresh without --resume") from error
    found: dict[str, Any] = checkpoint
    return found


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


@contextmanager
def exclusive_run(out: Path) -> Iterator[None]:
    """Hold the folder of a run for this process; run.lock in it names the process that does.

    The lock ends with the process, however that ends.

    Raises:
        InputError: another run holds it, or it cannot be written.
    """
    path = made_folder(out) / "run.lock"
    with path.open("a+", encoding="ascii") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            owner = file.read(20).strip()
            raise InputError(
                f"{out}: process {owner} is training there; wait for it or give another folder"
            ) from error
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def starting_checkpoint(out: Path, resume: bool, record: Mapping[str, Any]) -> Path | None:
    """Where a run in `out` starts: the last whole checkpoint, or None for the beginning.

    A run that does not resume forgets the checkpoints of an earlier one. `record` is kept in run.json.

    Args:
        out: folder of the run.
        resume: go on with the run there.
        record: what the run is, in plain values; must be the same when it is resumed.

    Raises:
        InputError: nothing to resume, no checkpoint that is whole, or a run with another record.
    """
    plain = json.loads(json.dumps(record))
    kept, folder = out / "run.json", out / "checkpoints"
    found = [folder / name for name in ("last.ckpt", "best.ckpt") if (folder / name).is_file()]
    if not resume:
        for path in found:
            path.unlink()
        with atomic_path(kept) as temporary:
            temporary.write_text(json.dumps(plain, indent=1) + "\n", encoding="utf-8")
        return None
    if kept.is_file():
        _check_record(kept, plain)
    if not found:
        if kept.is_file():  # killed before the first epoch ended
            return None
        raise InputError(
            f"{folder / 'last.ckpt'}: no checkpoint to resume from; leave out --resume to start afresh"
        )
    for path in found:
        try:
            read_checkpoint(path)
        except InputError as error:
            damage = error
        else:
            if path is not found[0]:
                warnings.warn(f"{found[0]} is damaged: resumed from {path}", stacklevel=2)
            return path
    raise damage


def _check_record(kept: Path, record: dict[str, Any]) -> None:
    try:
        earlier = json.loads(kept.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{kept}: damaged; train afresh without --resume") from error
    if not isinstance(earlier, dict):
        raise InputError(f"{kept}: damaged; train afresh without --resume")
    differing = [name for name in record if earlier.get(name) != record[name]]
    if differing:
        raise InputError(
            f"{kept}: that run has another {', '.join(differing)}; "
            "resume it with its own, or use another folder"
        )


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
    data: FrameDataModule,
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
    data: FrameDataModule,
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
        train_frames=len(data.frames("train")),
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
