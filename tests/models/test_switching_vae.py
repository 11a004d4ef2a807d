"""The switching VAE: forward algorithm, smoother and Pyro's enumeration against sums over paths of alpha."""

from dataclasses import replace
from itertools import product

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import TraceEnum_ELBO
from torch import Generator, Tensor, nn

from avse.data.errors import InputError
from avse.guides.audio import AudioGuide
from avse.guides.mixture import MixtureGuide
from avse.inference.em.component_mcem import ComponentwiseMCEM
from avse.inference.presets import PRESETS
from avse.inference.responsibilities import Tempered, independent, responsibilities, with_chain
from avse.models.a_vae import AVAE, StandardNormal
from avse.models.alpha_chain import AlphaChain
from avse.models.av_vae import AVVAE, VisualPrior
from avse.models.band_limited import BandLimited
from avse.models.coupling import Coupling
from avse.models.distributions import spectrum_cost
from avse.models.networks.spectrum import GaussianEncoder, LogPower, SpectrumDecoder
from avse.models.nmf import QuantileInit
from avse.models.noisy import ConstantNoise, NoisySpeech
from avse.models.switching_vae import SwitchingVAE
from avse.models.vae_mm import VAEMM

F, L, N, D = 5, 2, 4, 3


class Slope(nn.Module):
    """d(v), larger for larger lips."""

    def forward(self, visual: Tensor) -> Tensor:
        return 2 * visual.sum(-1)


def components(count: int = 2) -> list[AVAE | AVVAE]:
    torch.manual_seed(0)
    audio = [AVAE(StandardNormal(L), SpectrumDecoder(L, [4], F)) for _ in range(count - 1)]
    trunk = nn.Linear(D, 2)
    seen = AVVAE(trunk, VisualPrior(GaussianEncoder(2, [4], L)), SpectrumDecoder(L, [4], F, embedding_size=2))
    return [own.double() for own in (*audio, seen)]


def model(count: int = 2, frames: float = 3.0, classifier: bool = True) -> SwitchingVAE:
    pi = 0.3 if count == 2 else (0.5, 0.3, 0.2)
    found = SwitchingVAE(
        *components(count), pi=pi, frames=frames, corruption_classifier=Slope() if classifier else None
    )
    return found.double().requires_grad_(False)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=Generator().manual_seed(seed), dtype=torch.float64)


def densities(speech: SwitchingVAE, z: Tensor, power: Tensor, visual: Tensor) -> Tensor:
    """log p(s_n, z_n | alpha_n, v_n), (A, *, N), of the components alone."""
    found = [own.given(visual)(z) for own in speech.component_models()]
    return torch.cat([own.log_prior - spectrum_cost(power, own.log_variance) for own in found])


def paths(speech: SwitchingVAE, visual: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
    """log p(s, z) and p(alpha_n | s, z) (A, N), by a sum over all A^N paths, from `densities` (A, N)."""
    log_alpha = speech.log_alpha(visual)
    log_alpha = log_alpha.unsqueeze(-1).expand(-1, N) if log_alpha.dim() == 1 else log_alpha
    stay, values = 1 - 1 / speech.frames, len(own)
    weights, found = [], list(product(range(values), repeat=N))
    for path in found:
        total = log_alpha[path[0], 0]
        for n in range(1, N):
            kept = [stay if k == path[n - 1] else (1 - stay) / (values - 1) for k in range(values)]
            step = torch.tensor(kept, dtype=torch.float64) * log_alpha[:, n].exp()
            total = total + (step[path[n]] / step.sum()).log()
        weights.append(total + sum(own[k, n] for n, k in enumerate(path)))
    weight = torch.stack(weights)
    share = torch.zeros(values, N, dtype=torch.float64)
    for path, own_weight in zip(found, weight.softmax(0), strict=True):
        for n, k in enumerate(path):
            share[k, n] += own_weight
    return weight.logsumexp(0), share


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("classifier", [False, True])
def test_forward_algorithm_and_smoother_are_the_sum_over_paths(count: int, classifier: bool) -> None:
    speech = model(count, classifier=classifier)
    z, power, visual = normal(N, L), normal(N, F, seed=1).square(), normal(N, D, seed=2)
    own = densities(speech, z, power, visual)
    chain = speech.alpha_chain(visual)
    total, share = paths(speech, visual, own)
    torch.testing.assert_close(chain.log_evidence(own).sum(), total)
    torch.testing.assert_close(chain.smoothed(own), share)
    both = chain.smoothed(torch.stack([own, 0 * own], 1))  # two recordings at once, with the same lips
    torch.testing.assert_close(both[:, 0], share)
    torch.testing.assert_close(both[:, 1], paths(speech, visual, 0 * own)[1])


@pytest.mark.parametrize("count", [2, 3])
def test_pyro_enumerates_the_program_to_the_same_sum(count: int) -> None:
    """Frame after frame with `pyro.markov`; z and s are given, alpha is summed out by Pyro."""
    speech = model(count)
    z, power, visual = normal(N, L), normal(N, F, seed=1).square(), normal(N, D, seed=2)
    given = poutine.condition(speech.forward, {f"z_{n}": z[n] for n in range(N)})
    loss = TraceEnum_ELBO(max_plate_nesting=0).loss(given, lambda **data: None, power=power, visual=visual)
    evidence = speech.alpha_chain(visual).log_evidence(densities(speech, z, power, visual))
    torch.testing.assert_close(torch.tensor(-loss, dtype=torch.float64), evidence.sum())


@pytest.mark.slow
def test_draws_keep_alpha_for_as_long_as_they_should() -> None:
    """Changes of alpha in 1500 frames of two equal components: |z| < 5.5, false alarms 4e-8."""
    speech = SwitchingVAE(*components(), frames=10.0)
    pyro.set_rng_seed(0)
    visual = torch.zeros(1500, D, dtype=torch.float64)
    trace = poutine.trace(speech).get_trace(visual=visual)
    alpha = torch.stack([trace.nodes[f"alpha_{n}"]["value"] for n in range(1500)])
    changes = (alpha.diff() != 0).double()
    assert abs(float(changes.sum()) - 149.9) < 5.5 * (1499 * 0.1 * 0.9) ** 0.5
    assert trace.nodes["_RETURN"]["value"].shape == (1500, F)


def test_without_memory_it_is_the_mixture() -> None:
    """T uniform over two components (frames = 2): p(alpha_n | v_n), whatever alpha was before."""
    speech = model(frames=2.0)
    visual = normal(N, D)
    own = 3 * normal(2, N, seed=1)
    mixed = speech.log_alpha(visual) + own
    chain = speech.alpha_chain(visual)
    torch.testing.assert_close(chain.smoothed(own), mixed.softmax(0))
    torch.testing.assert_close(chain.log_evidence(own), mixed.logsumexp(0))


def test_single_frame() -> None:
    speech = model()
    own, visual = normal(2, 1), normal(1, D)
    torch.testing.assert_close(
        speech.alpha_chain(visual).smoothed(own), (speech.log_alpha(visual) + own).softmax(0)
    )


def test_impossible_values_stay_impossible() -> None:
    """A transition of probability 0, which no evidence can bring about."""
    forbidden = torch.tensor([[1.0, 0.0], [0.5, 0.5]]).log()
    chain = AlphaChain(torch.tensor([0.5, 0.5]).log(), forbidden)
    own = torch.tensor([[0.0, -50.0, 0.0], [-90.0, 0.0, -90.0]])
    r = chain.smoothed(own)
    assert r[0].min() > 0.999
    assert torch.isfinite(chain.log_evidence(own)).all()


# Inference -----------------------------------------------------------------------------------------------


def encoders() -> MixtureGuide:
    torch.manual_seed(1)
    pair = [AudioGuide(LogPower(F), GaussianEncoder(F, [4], L)).double() for _ in range(2)]
    return MixtureGuide(*pair, responsibilities=lambda *parts, power, visual: power[..., 0]).requires_grad_(
        False
    )


def short(mcem: ComponentwiseMCEM) -> ComponentwiseMCEM:
    return replace(mcem, noise_init=QuantileInit(rank=2), iterations=3)


def test_component_mcem_takes_the_chain_of_the_model() -> None:
    """Without memory it finds what it finds for the mixture; a lasting alpha changes less often."""
    power = normal(1, 60, F, seed=3).square() + 0.01
    visual = torch.zeros(60, D, dtype=torch.float64)
    algorithm = short(PRESETS["mcem-mixture"]())
    found = {}
    for name, speech in {
        "mixture": VAEMM(*components(), pi=0.3).double().requires_grad_(False),
        "no memory": model(frames=2.0, classifier=False),
        "lasting": model(frames=1000.0, classifier=False),
    }.items():
        posterior = algorithm(speech, encoders(), power, visual, Generator().manual_seed(0))
        found[name] = posterior.responsibilities
    torch.testing.assert_close(found["mixture"], found["no memory"])
    change = {name: float(r.diff(dim=-1).abs().sum()) for name, r in found.items()}
    assert change["lasting"] < change["mixture"] / 3


def test_the_step_is_tempered_as_before() -> None:
    chain = model().alpha_chain(torch.zeros(N, D, dtype=torch.float64))
    own = 5 * normal(2, N)
    prior = torch.zeros_like(own)
    torch.testing.assert_close(with_chain(independent, chain)(prior, own), chain.smoothed(own))
    torch.testing.assert_close(with_chain(Tempered(0.1), chain)(prior, own), chain.smoothed(0.1 * own))
    assert with_chain(independent, None) is independent


@pytest.mark.parametrize("name", sorted(PRESETS.keys() - {"mcem-mixture"}))
def test_every_other_algorithm_refuses(name: str) -> None:
    power, visual = torch.ones(1, N, F, dtype=torch.float64), torch.zeros(N, D, dtype=torch.float64)
    with pytest.raises(InputError, match=r'coupled by their alpha.*"mcem-mixture"'):
        PRESETS[name]()(model(), encoders(), power, visual, Generator(), lambda fraction: None)


def test_nothing_sums_its_alpha_frame_by_frame() -> None:
    speech = model()
    assert speech.coupling is BandLimited(speech, 3).coupling is Coupling.ALPHA
    assert BandLimited(model(classifier=False), 3).alpha_chain() is not None
    noisy = NoisySpeech(speech, ConstantNoise(torch.ones(N), torch.ones(N, F)))
    z, power, visual = normal(N, L), normal(N, F).square(), normal(N, D)
    with pytest.raises(InputError, match="coupled by their alpha"):
        responsibilities(noisy, z, power, visual)
    with pytest.raises(InputError, match="coupled by their alpha"):
        noisy(power, visual)
    with pytest.raises(InputError, match="SwitchingVAE: its frames are coupled"):
        VAEMM(speech, components()[0])


@pytest.mark.parametrize("frames", [1.0, 0.5, -3.0])
def test_durations_are_above_one_frame(frames: float) -> None:
    with pytest.raises(InputError, match="must be more than 1"):
        model(frames=frames)


def test_one_recording_at_a_time() -> None:
    with pytest.raises(InputError, match="one recording at a time"):
        model()(power=torch.ones(2, N, F), visual=torch.ones(2, N, D))
    with pytest.raises(InputError, match="number of frames"):
        model()()


def test_pyro_renders_the_program() -> None:
    """Every alpha_n is a scalar; the graph has the chain of alpha, and z_n and s_n that depend on it."""
    pytest.importorskip("graphviz")
    graph = pyro.render_model(
        model(), model_kwargs={"power": normal(N, F).exp(), "visual": normal(N, D)}
    ).source
    for n in range(N):
        assert f"alpha_{n} -> z_{n}" in graph
        assert f"alpha_{n} -> s_{n}" in graph
        assert f"z_{n} -> s_{n}" in graph
        assert n == 0 or f"alpha_{n - 1} -> alpha_{n}" in graph
