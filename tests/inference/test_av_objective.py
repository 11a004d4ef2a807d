"""Training with lips: the objective against sums and integrals written out, and steps that free them alone.

Two latents, so that log p(s | v) and every divergence are sums over a grid. Statistics are z-scores in
float64; |z| < 4.5 has a false-alarm rate of 7e-6 a value.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import numpy as np
import pyro
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from numpy.typing import NDArray
from torch import Tensor, nn

from avse.data.augmentation import LevelAugmentation, LipAugmentation
from avse.data.corpora.base import Split, Utterance
from avse.data.datamodule import FrameDataModule
from avse.data.errors import InputError
from avse.data.front_end import FrontEnd
from avse.data.lips import Lips
from avse.data.lips.front_end import LipFrontEnd
from avse.data.stft import STFT
from avse.guides.audio_visual import AudioVisualGuide
from avse.guides.base import SpeechGuide
from avse.guides.visual import VisualGuide
from avse.inference.svi.audio_path import FrozenAudioPath, audio_path
from avse.inference.svi.elbo import AnalyticKLTraceEnumELBO, PriorMixedELBO
from avse.inference.svi.training import SVI, TrainingSettings, train
from avse.models.a_vae import AVAE, StandardNormal
from avse.models.av_vae import AVVAE, VisualPrior
from avse.models.networks.lips import LipTrunk
from avse.models.networks.spectrum import GaussianEncoder, RawPower, SpectrumDecoder
from avse.zoo.pair import PairConfig, SpeechPair
from avse.zoo.recipes import prior_mixed

pytestmark = [
    pytest.mark.filterwarnings("ignore:TraceEnum_ELBO found no sample sites"),
    # Lightning's own deprecations, and what it advises against: frames in memory need no workers.
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*exists and is not empty"),
    pytest.mark.filterwarnings("ignore:.*contains a non-.*weights"),
]

LATENTS, F, N, E, D = 2, 5, 4, 3, 8
VARIANTS = [("network", True), ("network", False), ("standard", True), ("standard", False)]
"""Prior of z, and whether model and guide share the trunk."""


def lip_trunk() -> LipTrunk:
    trunk = LipTrunk(nn.Sequential(nn.Linear(D - 1, E), nn.Tanh()), E)
    nn.init.normal_(trunk.missing_embedding)
    return trunk


def av_vae(prior: str = "network", tied: bool = True) -> tuple[AVVAE, AudioVisualGuide]:
    """Model and guide, with a decoder that listens to z."""
    trunk = lip_trunk()
    model = AVVAE(
        trunk,
        VisualPrior(GaussianEncoder(E, [6], LATENTS)) if prior == "network" else StandardNormal(LATENTS),
        SpectrumDecoder(LATENTS, [7], F, embedding_size=E),
    )
    with torch.no_grad():
        model.decoder.trunk[0].weight.mul_(2)  # type: ignore[union-attr, operator]
        model.decoder.output.weight.mul_(2)  # type: ignore[union-attr, operator]
    encoder = GaussianEncoder(F, [7], LATENTS, embedding_size=E)
    guide = AudioVisualGuide(RawPower(), trunk if tied else lip_trunk(), encoder)
    return model.double(), guide.double()


def lips(frames: int = N) -> Tensor:
    """Random pixels; every fourth frame is not seen."""
    valid = (torch.arange(frames, dtype=torch.float64) % 4 != 2).double()
    return torch.cat([torch.randn(frames, D - 1, dtype=torch.float64), valid[:, None]], -1)


def batch_of(model: AVVAE) -> dict[str, Tensor]:
    """Lips, and power drawn from the model."""
    visual = lips()
    with torch.no_grad():
        return {"power": model(visual=visual), "visual": visual}


def mixed(model: AVVAE, prior_weight: float) -> PriorMixedELBO:
    return PriorMixedELBO(VisualGuide(model.lips, model.prior), prior_weight)


def log_likelihood(model: AVVAE, z: Tensor, power: Tensor, visual: Tensor) -> Tensor:
    """log p(s | z, v) of every frame, by the formula."""
    log_variance = model.decoder(z, model.lips(visual))
    return -(log_variance + power * torch.exp(-log_variance)).sum(-1)


def divergence(q: torch.distributions.Normal, p: torch.distributions.Normal) -> Tensor:
    """KL(q || p) of diagonal normals, by the formula."""
    square = (q.stddev.square() + (q.mean - p.mean).square()) / p.stddev.square()
    return (square - 1 - 2 * torch.log(q.stddev / p.stddev)).sum(-1) / 2


# The objective -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("prior", "tied"), VARIANTS)
@pytest.mark.parametrize("kl_weight", [1.0, 0.3])
@pytest.mark.parametrize("w", [0.0, 0.1, 0.6, 1.0])
def test_objective_and_gradient_are_the_mix_written_out(
    prior: str, tied: bool, kl_weight: float, w: float
) -> None:
    """(1 - w) [log p(s | z, v) - KL(q || p)] + w log p(s | z', v) at the draws z ~ q, z' ~ p(z | v)."""
    model, guide = av_vae(prior, tied)
    batch = batch_of(model)
    elbo = mixed(model, w)
    elbo.kl_weight = kl_weight
    assert elbo.kl_weight == kl_weight
    pyro.set_rng_seed(5)
    loss = elbo.differentiable_loss(model, guide, **batch)

    pyro.set_rng_seed(5)
    q, p = guide.posterior(**batch), model.prior(model.lips(batch["visual"])).expand((N,))
    likelihood, under_prior = (log_likelihood(model, each.rsample(), **batch) for each in (q, p))
    own = likelihood - kl_weight * divergence(q, p)
    truth = -((1 - w) * own + w * under_prior).sum()

    assert loss.item() == pytest.approx(truth.item(), rel=1e-10)
    parameters = [*model.parameters(), *guide.parameters()]
    for found, expected in zip(
        torch.autograd.grad(loss, parameters, allow_unused=True),
        torch.autograd.grad(truth, parameters, allow_unused=True),
        strict=True,
    ):
        assert (found is None) == (expected is None)
        if found is not None:
            torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("w", [-0.1, 1.001, math.nan, math.inf])
def test_weights_that_make_no_mix_are_refused(w: float) -> None:
    with pytest.raises(InputError, match="between 0 and 1"):
        mixed(av_vae()[0], w)


def reached(loss: Tensor, model: nn.Module, guide: nn.Module) -> set[str]:
    """The parts, by name, in which every parameter gets a gradient; in the others none does."""
    parts: dict[str, list[bool]] = {}
    parameters = dict(nn.ModuleDict({"model": model, "guide": guide}).named_parameters())
    gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    for name, gradient in zip(parameters, gradients, strict=True):
        owner, part = name.split(".")[:2]
        found = gradient is not None and bool(gradient.abs().max() > 0)
        parts.setdefault(f"{owner} {'condition' if 'condition' in name else part}", []).append(found)
    assert all(all(one) or not any(one) for one in parts.values()), parts
    return {part for part, one in parts.items() if one[0]}


@pytest.mark.parametrize(("prior", "tied"), VARIANTS)
def test_what_learns_from_which_term(prior: str, tied: bool) -> None:
    model, guide = av_vae(prior, tied)
    batch = batch_of(model)
    story = {"model lips", "model decoder", "model condition"} | (
        {"model prior"} if prior == "network" else set()
    )
    encoder = {"guide encoder", "guide condition"} | (set() if tied else {"guide lips"})
    for w, expected in ((0.0, story | encoder), (1.0, story), (0.5, story | encoder)):
        loss = mixed(model, w).differentiable_loss(model, guide, **batch)
        assert reached(loss, model, guide) == expected, w


def test_what_learns_in_a_v_vae() -> None:
    model = AVAE(StandardNormal(LATENTS), SpectrumDecoder(LATENTS, [7], F)).double()
    guide = VisualGuide(lip_trunk(), VisualPrior(GaussianEncoder(E, [6], LATENTS))).double()
    loss = AnalyticKLTraceEnumELBO(max_plate_nesting=1).differentiable_loss(
        model, guide, power=torch.rand(N, F, dtype=torch.float64), visual=lips()
    )
    assert reached(loss, model, guide) == {"model decoder", "guide lips", "guide network"}


@dataclass
class Integrals:
    """Of a model and guide with two latents, each (N,): sums over a grid of z in units of the prior.

    Attributes:
        evidence: log p(s | v).
        own: KL(q(z | s, v) || p(z | s, v)).
        prior: KL(p(z | v) || p(z | s, v)).
    """

    evidence: Tensor
    own: Tensor
    prior: Tensor


def integrals(model: AVVAE, guide: SpeechGuide, batch: dict[str, Tensor]) -> Integrals:
    step = 0.07
    axis = torch.arange(-100, 101, dtype=torch.float64) * step
    unit = torch.cartesian_prod(axis, axis)[:, None]  # (M, 1, L)
    q, p = guide.posterior(**batch), model.prior(model.lips(batch["visual"]))
    z = p.mean + p.stddev * unit
    cell = p.stddev.log().sum(-1) + 2 * math.log(step)
    log_p, log_q = p.log_prob(z) + cell, q.log_prob(z) + cell
    for density in (log_p, log_q):
        torch.testing.assert_close(density.exp().sum(0), torch.ones(N, dtype=torch.float64))
    joint = log_p + log_likelihood(model, z, **batch)
    evidence = joint.logsumexp(0)
    own, prior = ((d.exp() * (d - joint + evidence)).sum(0) for d in (log_q, log_p))
    return Integrals(evidence, own, prior)


@pytest.fixture
def fitted() -> tuple[AVVAE, AudioVisualGuide, dict[str, Tensor]]:
    """A model, data drawn from it, and a guide near the posterior of the data."""
    pyro.set_rng_seed(2)
    model, guide = av_vae(tied=False)
    model.requires_grad_(False)
    batch = batch_of(model)
    optimizer = torch.optim.Adam(guide.parameters(), 0.03)
    elbo = AnalyticKLTraceEnumELBO(max_plate_nesting=1)
    copies = {name: value.repeat(8, 1) for name, value in batch.items()}
    for _ in range(150):
        optimizer.zero_grad()
        elbo.differentiable_loss(model, guide, **copies).backward()
        optimizer.step()
    return model.requires_grad_(True), guide, batch


def bounds(elbo: PriorMixedELBO, model: AVVAE, guide: SpeechGuide, batch: dict[str, Tensor]) -> Tensor:
    """100 independent values of the bound on the batch, each a mean over 100 draws."""
    copies = {name: value.repeat(100, 1) for name, value in batch.items()}
    losses = [elbo.differentiable_loss(model, guide, **copies).detach() for _ in range(100)]
    return -torch.stack(losses) / 100


def z_score(draws: Tensor, truth: Tensor) -> float:
    return float((draws.mean(0) - truth) / (draws.std(0) / len(draws) ** 0.5))


@pytest.mark.slow
def test_the_mix_is_a_lower_bound(fitted: tuple[AVVAE, AudioVisualGuide, dict[str, Tensor]]) -> None:
    """It misses log p(s | v) by (1 - w) KL(q || posterior) + w KL(prior || posterior), and nothing else."""
    model, guide, batch = fitted
    with torch.no_grad():
        exact = integrals(model, guide, batch)
        # The evidence by importance sampling: E_r [p(s, z | v) / r(z)] with two proposals, 20000 draws each.
        q, p = guide.posterior(**batch), model.prior(model.lips(batch["visual"]))
        wide = torch.distributions.Normal(q.mean, 1.5 * q.stddev)
        for proposal in (torch.distributions.Independent(wide, 1), p):
            z = proposal.sample(torch.Size([20_000]))
            log_weight = log_likelihood(model, z, **batch) + p.log_prob(z) - proposal.log_prob(z)
            weight = (log_weight - exact.evidence).exp()
            assert max(abs(z_score(weight[:, n], torch.tensor(1.0))) for n in range(N)) < 4.5
    evidence = exact.evidence.sum()
    for w in (0.0, 0.1, 0.5, 1.0):
        values = bounds(mixed(model, w), model, guide, batch)
        gap = ((1 - w) * exact.own + w * exact.prior).sum()
        assert abs(z_score(values, evidence - gap)) < 4.5
        assert z_score(values, evidence) < -10
    # Negative control: without the divergence of the guide it is no bound.
    wrong = mixed(model, 0.0)
    wrong.kl_weight = 0.0
    assert z_score(bounds(wrong, model, guide, batch), evidence) > 10


# The loss of a training step -----------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [True, False])
def test_a_loss_looks_at_the_lips_once(tied: bool) -> None:
    """And is the objective a frame, with every trunk asked anew."""
    model, guide = av_vae(tied=tied)
    batch = batch_of(model)
    looks: list[None] = []
    for trunk in {model.lips, guide.lips}:
        trunk.layers.register_forward_hook(lambda *ignored: looks.append(None))
    elbo = mixed(model, 0.1)
    svi = SVI(model, guide, TrainingSettings(power_floor=0.01), elbo)
    pyro.set_rng_seed(3)
    loss = svi.loss(batch)
    assert len(looks) == (1 if tied else 2)
    pyro.set_rng_seed(3)
    anew = elbo.differentiable_loss(model, guide, power=batch["power"] + 0.01, visual=batch["visual"])
    assert len(looks) > (2 if tied else 4)
    parameters = list(svi.parameters())
    gradients = (torch.autograd.grad(each, parameters) for each in (loss, anew / N))
    assert loss.item() == pytest.approx(anew.item() / N, rel=1e-10)
    for ours, truth in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, truth, rtol=1e-8, atol=1e-12)
    with torch.no_grad():
        model.lips.missing_embedding.add_(1)
    assert svi.loss(batch).item() != pytest.approx(loss.item(), rel=1e-3)


@pytest.mark.parametrize("tied", [True, False])
def test_freezing_changes_no_loss_and_no_visual_gradient(tied: bool) -> None:
    """A frozen decoder multiplies by folded weights: they follow every step of the optimiser."""
    model, guide = av_vae(tied=tied)
    batch = batch_of(model)
    svi = SVI(model, guide, TrainingSettings(), mixed(model, 0.1))
    optimizer = torch.optim.AdamW(svi.parameters(), 0.05)
    audio = audio_path(svi)
    visual = [p for p in svi.parameters() if not any(p is other for other in audio)]
    for _ in range(3):
        results = []
        for trains in (False, True):
            for parameter in audio:
                parameter.requires_grad_(trains)
            pyro.set_rng_seed(4)
            loss = svi.loss(batch)
            results.append((loss, *torch.autograd.grad(loss, visual, retain_graph=True)))
        for frozen, free in zip(*results, strict=True):
            torch.testing.assert_close(frozen, free, rtol=1e-9, atol=1e-12)
        optimizer.zero_grad()
        results[1][0].backward()
        optimizer.step()


# The frozen audio path -----------------------------------------------------------------------------------

ARGUMENTS = {
    "latent_size": LATENTS,
    "embedding_size": E,
    "trunk": "papers",
    "prior_hidden": [5],
    "encoder": [6],
    "decoder": [6],
    "dropout": 0.2,
}
VIEW = LipFrontEnd(side=4, instants=1)
AUDIO_PATH = {
    f"{part}.{kind}"
    for part in (
        "model.decoder.trunk.0",
        "model.decoder.output",
        "guide.encoder.trunk.0",
        "guide.encoder.mean",
        "guide.encoder.log_variance",
    )
    for kind in ("weight", "bias")
}


def sound(seed: int) -> tuple[NDArray[np.float32], int]:
    """0.1 s of noise, 16 kHz."""
    return np.random.default_rng(seed).normal(0, 0.1, 1600).astype(np.float32), 16000


def mouth(seed: int) -> Lips:
    """Random pictures, 30 a second."""
    images = np.random.default_rng(seed).integers(0, 256, (4, 67, 67), dtype=np.uint8)
    return Lips(images, np.arange(4) / 30, np.zeros(4, np.uint8), 30.0)


@dataclass
class Mouths:
    name: str = "mouths"

    def utterances(self, split: Split) -> Sequence[Utterance]:
        first, count = {"train": (0, 3), "validation": (100, 1), "test": (200, 0)}[split]
        return [
            Utterance(f"mouth-{k}", "anna", split, partial(sound, k), partial(mouth, k))
            for k in range(first, first + count)
        ]


class Watch(Callback):
    """After every step: what was frozen in it, whether all learn again, and which parameters moved."""

    def __init__(self) -> None:
        self.frozen: list[set[str]] = []
        self.moved: list[set[str]] = []

    def on_train_batch_start(self, trainer: L.Trainer, module: L.LightningModule, *batch: Any) -> None:
        self.before = {name: p.detach().clone() for name, p in module.named_parameters()}

    def on_after_backward(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.frozen.append({name for name, p in module.named_parameters() if not p.requires_grad})
        assert all(p.requires_grad == (p.grad is not None) for p in module.parameters())

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *batch: Any) -> None:
        assert all(p.requires_grad for p in module.parameters())
        self.moved.append(
            {name for name, p in module.named_parameters() if not torch.equal(p, self.before[name])}
        )


class StopAfter(Callback):
    """Interrupts a run at the end of an epoch."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        trainer.should_stop = trainer.current_epoch >= self.epoch


@dataclass
class Run:
    """What a training began with, ended in (the last step's weights), and did on the way."""

    start: dict[str, Tensor]
    end: dict[str, Tensor]
    watch: Watch

    def changed(self) -> set[str]:
        return {name for name in self.start if not torch.equal(self.start[name], self.end[name])}


Fit = Callable[..., Run]


@pytest.fixture
def fit(tmp_path: Path) -> Fit:
    """Trains a tiny AV-VAE, 5 steps an epoch; lips are hidden in a third of the frames."""

    def run(
        out: str,
        probability: float,
        tied: bool = True,
        weight_decay: float = 0.0,
        epochs: int = 2,
        resume: bool = False,
        callbacks: Sequence[Callback] = (),
    ) -> Run:
        torch.manual_seed(11)
        pair = SpeechPair(PairConfig("av-vae", {**ARGUMENTS, "tied": tied}, FrontEnd(STFT(16, 8)), lips=VIEW))
        data = FrameDataModule(
            [Mouths()], pair.config.front_end, batch_size=128, lips=VIEW, cache=tmp_path / "cache"
        )
        settings = TrainingSettings(learning_rate=1e-2, max_epochs=epochs, weight_decay=weight_decay)
        augmentations = (LevelAugmentation(), LipAugmentation(VIEW, hidden=0.3))
        svi = SVI(pair.model, pair.guide, settings, prior_mixed(pair), augmentations)
        start = {name: p.detach().clone() for name, p in svi.named_parameters()}
        watch = Watch()
        torch.rand(7 if resume else 1)  # the state of the global generator must not matter
        train(
            svi,
            data,
            tmp_path / out,
            resume=resume,
            callbacks=[FrozenAudioPath(probability), watch, *callbacks],
        )
        last = torch.load(tmp_path / out / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        return Run(start, {name: last[name] for name in start}, watch)

    return run


@pytest.mark.parametrize("tied", [True, False])
def test_the_audio_path_by_name(tied: bool) -> None:
    model, guide = av_vae(tied=tied)
    svi = SVI(model, guide, TrainingSettings(), mixed(model, 0.1))
    found = {id(p) for p in audio_path(svi)}
    assert {name for name, p in svi.named_parameters() if id(p) in found} == AUDIO_PATH


@pytest.mark.parametrize(("tied", "weight_decay"), [(True, 0.0), (True, 0.1), (False, 0.0)])
def test_with_probability_one_the_visual_path_learns_alone(tied: bool, weight_decay: float, fit: Fit) -> None:
    """Bit for bit: neither a gradient nor the decay of weights touches the rest."""
    run = fit("run", 1.0, tied, weight_decay)
    assert run.start.keys() > AUDIO_PATH
    assert run.changed() == run.start.keys() - AUDIO_PATH
    assert all(frozen == AUDIO_PATH for frozen in run.watch.frozen)
    assert {
        "model.lips.missing_embedding",
        "model.prior.network.mean.weight",
        "model.decoder.condition.weight",
    } <= run.changed()
    assert ("guide.lips.missing_embedding" in run.changed()) == (not tied)


def test_with_probability_zero_all_learns(fit: Fit) -> None:
    run = fit("run", 0.0)
    assert run.changed() == run.start.keys()
    assert not any(run.watch.frozen)


def stub(step: int) -> Any:
    """As much of a trainer as the choice depends on."""
    return SimpleNamespace(global_step=step)


def chosen(callback: FrozenAudioPath, steps: Sequence[int]) -> list[bool]:
    """Whether the callback freezes in each of the steps."""
    svi = SVI(*av_vae(), TrainingSettings())
    found = []
    for step in steps:
        callback.on_train_batch_start(stub(step), svi, {}, 0)
        found.append(not all(p.requires_grad for p in svi.parameters()))
        callback.on_train_batch_end(stub(step), svi, None, {}, 0)
        assert all(p.requires_grad for p in svi.parameters())
    return found


def test_some_steps_freeze_and_a_resumed_run_freezes_the_same(fit: Fit) -> None:
    """In each step exactly what is free moves; two epochs of four and the rest equal four."""
    whole = fit("whole", 0.4, epochs=4)
    part = fit("parts", 0.4, epochs=4, callbacks=[StopAfter(1)])
    rest = fit("parts", 0.4, epochs=4, resume=True)
    steps = len(whole.watch.frozen)
    assert len(part.watch.frozen) == len(rest.watch.frozen) == steps / 2
    assert [*part.watch.frozen, *rest.watch.frozen] == whole.watch.frozen
    assert all(torch.equal(whole.end[name], rest.end[name]) for name in whole.end)
    choices = chosen(FrozenAudioPath(0.4), range(steps))
    assert 0 < sum(choices) < steps
    assert [bool(frozen) for frozen in whole.watch.frozen] == choices
    for frozen, moved in zip(whole.watch.frozen, whole.watch.moved, strict=True):
        assert not frozen & moved
        assert frozen or moved >= AUDIO_PATH


def test_the_choice_depends_on_the_step_and_the_seed_alone() -> None:
    """A share of 0.2 in 3000 steps, and independent neighbours: |z| < 4.5, false alarms 1e-5."""
    steps = range(3000)
    choices = chosen(FrozenAudioPath(0.2), steps)
    torch.manual_seed(123)
    assert chosen(FrozenAudioPath(0.2), steps[::-1])[::-1] == choices
    frozen = torch.tensor(choices, dtype=torch.float64) - 0.2
    assert abs(float(frozen.sum())) < 4.5 * (3000 * 0.2 * 0.8) ** 0.5
    neighbours = frozen[1:] * frozen[:-1] / (0.2 * 0.8)
    assert abs(float(neighbours.sum())) < 4.5 * 2999**0.5
    assert chosen(FrozenAudioPath(0.2, seed=1), steps[:100]) != choices[:100]
