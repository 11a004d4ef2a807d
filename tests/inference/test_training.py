"""Training: it learns, it resumes as if never stopped, it keeps the best weights, it writes nowhere else."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import lightning as L
import numpy as np
import pyro
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from avse.data.augmentation import EqualiserAugmentation, LevelAugmentation
from avse.data.corpora.base import Split, Utterance
from avse.data.datamodule import FrameDataModule
from avse.data.errors import InputError
from avse.inference.svi.training import SVI, TrainingReport, TrainingSettings, read_history, train
from avse.zoo.pair import PairConfig, SpeechPair

pytestmark = [
    # Deprecations inside Lightning, and what it advises against: frames in memory need no workers.
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*exists and is not empty"),
    pytest.mark.filterwarnings("ignore:.*contains a non-.*weights"),
    pytest.mark.filterwarnings("ignore:TraceEnum_ELBO found no sample sites"),
]

SETTINGS = TrainingSettings(learning_rate=1e-2, max_epochs=4, kl_warmup=5, gradient_norm=50.0, seed=3)
AUGMENTATIONS = (LevelAugmentation(), EqualiserAugmentation())


def coloured(seed: int) -> tuple[NDArray[np.float32], int]:
    """Noise whose colour changes half way, 16 kHz."""
    white = np.random.default_rng(seed).normal(0, 0.1, 1600)
    white[:800] = np.convolve(white[:800], np.ones(8) / 8, "same")
    return white.astype(np.float32), 16000


@dataclass
class Colours:
    name: str = "colours"
    counts: dict[str, int] = field(default_factory=lambda: {"train": 4, "validation": 2})

    def utterances(self, split: Split) -> Sequence[Utterance]:
        first = 0 if split == "train" else 100
        return [
            Utterance(f"colour-{first + k}", "anna", split, partial(coloured, first + k))
            for k in range(self.counts.get(split, 0))
        ]


@dataclass
class Run:
    """A training run in a folder of its own, with the state it ended in."""

    svi: SVI
    report: TrainingReport
    out: Path

    def state(self, name: str = "last") -> dict[str, Tensor]:
        return torch.load(self.out / "checkpoints" / f"{name}.ckpt", weights_only=True)["state_dict"]


class StopAfter(L.Callback):
    """Interrupts a run at the end of an epoch."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        trainer.should_stop = trainer.current_epoch >= self.epoch


@pytest.fixture
def fit(tmp_path: Path, tiny_config: PairConfig, monkeypatch: pytest.MonkeyPatch):
    """Runs a training and returns it; the working folder is one that must stay empty."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)

    def run(
        out: str, settings: TrainingSettings = SETTINGS, resume: bool = False, callbacks: Sequence = ()
    ) -> Run:
        torch.manual_seed(11)
        pair = SpeechPair(tiny_config)
        data = FrameDataModule(
            [Colours()], tiny_config.front_end, batch_size=32, cache=tmp_path / "cache", seed=settings.seed
        )
        frames = data.frames("train").power
        pair.model.fit_scales(frames)
        pair.guide.fit_scales(frames)
        svi = SVI(pair.model, pair.guide, settings, augmentations=AUGMENTATIONS)
        torch.rand(7 if resume else 1)  # the state of the global generator must not matter
        report = train(svi, data, tmp_path / out, resume=resume, callbacks=callbacks)
        assert list(elsewhere.iterdir()) == []
        assert list(pyro.get_param_store()) == []
        return Run(svi, report, tmp_path / out)

    return run


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def test_the_bound_rises(fit) -> None:
    run = fit("run", replace(SETTINGS, max_epochs=15))
    losses = [row["validation_loss"] for row in run.report.history]
    assert len(losses) == run.report.epochs == 15
    assert losses[-1] < losses[0] - 1
    assert run.report.history[-1]["train_loss"] < run.report.history[0]["train_loss"]
    assert run.report.validation_elbo == pytest.approx(-min(losses), rel=1e-5)
    assert run.report.train_frames == 4 * 51
    assert not run.svi.training


def test_same_seed_same_weights(fit) -> None:
    settings = replace(SETTINGS, max_epochs=2)
    first, again = fit("first", settings).state(), fit("again", settings).state()
    assert equal(first, again)
    assert not equal(first, fit("other", replace(settings, seed=4)).state())


@pytest.mark.parametrize("annealed", [True, False])
def test_resumed_is_uninterrupted_bit_for_bit(annealed: bool, fit) -> None:
    """Two epochs of four, then the rest from last.ckpt: the cosine schedule is that of four throughout."""
    settings = replace(SETTINGS, annealed=annealed)
    whole = fit("whole", settings)
    part = fit("parts", settings, callbacks=[StopAfter(1)])
    assert part.report.epochs == 2
    assert not equal(whole.state(), part.state())
    rest = fit("parts", settings, resume=True)
    assert rest.report.epochs == 4
    assert equal(whole.state(), rest.state())
    assert equal(whole.svi.state_dict(), rest.svi.state_dict())
    assert rest.report.validation_elbo == whole.report.validation_elbo
    assert rest.report.history[-1] == whole.report.history[-1]


def test_history_survives_a_resume(fit) -> None:
    fit("run", callbacks=[StopAfter(1)])
    assert [row["epoch"] for row in fit("run", resume=True).report.history] == [0, 1, 2, 3]


def test_a_finished_run_resumes_to_itself(fit) -> None:
    settings = replace(SETTINGS, max_epochs=2)
    first, again = fit("run", settings), fit("run", settings, resume=True)
    assert equal(first.svi.state_dict(), again.svi.state_dict())
    assert again.report.validation_elbo == first.report.validation_elbo
    assert [row["epoch"] for row in again.report.history] == [0, 1]


def test_resume_needs_a_checkpoint(fit) -> None:
    with pytest.raises(InputError, match=r"last\.ckpt: no checkpoint"):
        fit("nothing", resume=True)


class Spoil(L.Callback):
    """From an epoch on, ruins the model before it is validated."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.current_epoch >= self.epoch:
            with torch.no_grad():
                for parameter in pl_module.parameters():
                    parameter.mul_(5)


def test_the_best_weights_come_back_and_patience_ends_a_run(fit) -> None:
    run = fit("run", replace(SETTINGS, max_epochs=30, patience=3), callbacks=[Spoil(2)])
    losses = [row["validation_loss"] for row in run.report.history]
    assert run.report.epochs == 5  # two good ones and three in vain
    assert min(losses) in losses[:2]
    assert equal(run.svi.state_dict(), run.state("best"))
    assert not equal(run.svi.state_dict(), run.state("last"))
    assert run.report.validation_elbo == pytest.approx(-min(losses), rel=1e-5)


def test_the_last_weights_are_kept_on_demand(fit) -> None:
    run = fit("run", replace(SETTINGS, max_epochs=4, keep="last"), callbacks=[Spoil(2)])
    losses = [row["validation_loss"] for row in run.report.history]
    assert losses[-1] > min(losses)
    assert equal(run.svi.state_dict(), run.state("last"))
    assert run.report.validation_elbo == pytest.approx(-losses[-1], rel=1e-5)


def test_files_of_a_run(fit) -> None:
    out = fit("run", replace(SETTINGS, max_epochs=1)).out
    assert (out / "report.json").is_file()
    assert {p.name for p in (out / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    assert [row["epoch"] for row in read_history(out / "log" / "metrics.csv")] == [0]


def test_loss_is_minus_the_bound_a_frame(tiny_pair: SpeechPair) -> None:
    """Against log p(s | z) - KL with the draw replayed; the floor is added to the power."""
    settings = TrainingSettings(power_floor=0.1)
    svi = SVI(tiny_pair.model, tiny_pair.guide, settings)
    power = torch.rand(6, tiny_pair.stft.bins)
    pyro.set_rng_seed(2)
    loss = svi.loss({"power": power}).item()
    pyro.set_rng_seed(2)
    q = tiny_pair.guide.posterior(power + 0.1)
    z = tiny_pair.guide(power=power + 0.1)
    log_variance = tiny_pair.model.decoder(z)  # type: ignore[operator]
    likelihood = -(log_variance + (power + 0.1) * torch.exp(-log_variance)).sum(-1)
    divergence = (q.variance + q.mean.square() - 1 - q.variance.log()).sum(-1) / 2
    assert loss == pytest.approx((divergence - likelihood).mean().item(), rel=1e-5)


# Augmentations -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_levels_are_uniform_in_db(dtype: torch.dtype) -> None:
    """One gain a frame; range, mean and variance of the uniform law, |z| < 4.5 (false alarms 1e-5)."""
    count = 20_000
    power = torch.rand(count, 5, dtype=dtype) + 0.1
    batch = {"power": power, "visual": torch.ones(count, 2)}
    out = LevelAugmentation(-20, 5)(batch)
    decibels = 10 * torch.log10(out["power"] / power)
    assert decibels.dtype == dtype
    assert (decibels - decibels[:, :1]).abs().max() < 1e-4
    level = decibels[:, 0].double()
    assert level.min() > -20.001
    assert level.max() < 5.001
    assert level.max() - level.min() > 24.9
    assert abs(float(level.mean() + 7.5)) < 4.5 * 25 / (12 * count) ** 0.5
    square = (level + 7.5).square()
    assert abs(float(square.mean() - 25**2 / 12)) < 4.5 * float(square.std()) / count**0.5
    assert out["visual"] is batch["visual"]
    assert batch["power"] is power


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equaliser_has_the_covariance_of_its_cosines(dtype: torch.dtype) -> None:
    """Mean 0 and covariance deviation^2 sum_j cos_j(f) cos_j(f') in dB: 90 z-scores below 4.5."""
    count, bins, deviation, order = 20_000, 9, 2.0, 4
    power = torch.rand(count, bins, dtype=dtype) + 0.1
    response = (
        10 * torch.log10(EqualiserAugmentation(deviation, order)({"power": power})["power"] / power)
    ).double()
    angle = torch.pi * torch.arange(bins, dtype=torch.float64) / (bins - 1)
    cosines = torch.cos(torch.arange(1, order + 1, dtype=torch.float64)[:, None] * angle)
    truth = deviation**2 * cosines.T @ cosines
    products = response[:, :, None] * response[:, None, :]
    scores = (products.mean(0) - truth) / (products.std(0) / count**0.5)
    assert scores.abs().max() < 4.5
    assert (response.mean(0) / (response.std(0) / count**0.5)).abs().max() < 4.5
    # Smooth: nothing but the cosines.
    residual = response - response @ torch.linalg.pinv(cosines) @ cosines
    assert residual.abs().max() < 1e-3
