"""Variational EM through Pyro traces equals that through closed forms, for every family of models."""

from collections.abc import Callable
from dataclasses import replace

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Generator, Tensor

from avse.data.lips.front_end import LipFrontEnd
from avse.guides.base import SpeechGuide
from avse.guides.mixture import MixtureGuide, OptimalResponsibilities
from avse.inference.component_density import traced
from avse.inference.presets import PRESETS, default_vem, papers_vem
from avse.inference.vem.latent_factor import Structured
from avse.inference.vem.vem import VEM
from avse.models.base import SpeechModel, TracedSpeech
from avse.models.min_vae import MINVAE
from avse.models.sites import Z
from avse.models.vae_mm import VAEMM
from avse.zoo.architectures import a_vae, av_vae

F, N, L = 9, 6, 2
VIEW = LipFrontEnd(side=3, instants=1)
SIZES = {"latent_size": L, "encoder": (4,), "decoder": (4,)}


class OnlyLatent(SpeechModel):
    """A user's model: z ~ Student-t, log variance linear in z."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("slope", torch.linspace(-1, 1, L * F).reshape(L, F))

    def latent(self, visual: Tensor | None = None) -> Tensor:
        z = pyro.sample(Z, dist.StudentT(self.slope.new_tensor(5.0)).expand([L]).to_event(1))
        return z @ self.slope


def pairs() -> dict[str, tuple[SpeechModel, SpeechGuide]]:
    torch.manual_seed(0)
    hearing, listens = a_vae(F, **SIZES)
    seeing, looks = av_vae(F, VIEW, embedding_size=4, prior_hidden=(4,), **SIZES)
    mixture, own = VAEMM(hearing, seeing, 0.3), MINVAE(L, hearing.decoder, pi=0.3)
    own.audio_mean.data += 1
    found = {
        "a-vae": (hearing, listens),
        "av-vae": (seeing, looks),
        "vae-mm": (mixture, MixtureGuide(listens, looks, responsibilities=OptimalResponsibilities(mixture))),
        "min-vae": (own, MixtureGuide(listens, looks, responsibilities=OptimalResponsibilities(own))),
        "only latent": (OnlyLatent(), listens),
    }
    for model, guide in found.values():
        model.double().eval().requires_grad_(False)
        guide.double().eval().requires_grad_(False)
    return found


def short(algorithm: VEM) -> VEM:
    return replace(
        algorithm,
        iterations=3,
        e_step=replace(algorithm.e_step, num_steps=4, warmup=2),  # type: ignore[type-var]
        final=replace(algorithm.final, num_steps=5, warmup=2),  # type: ignore[type-var]
    )


def structured() -> VEM:
    return replace(default_vem(), factor=Structured(2))


@pytest.mark.parametrize("make", [default_vem, papers_vem, structured])
@pytest.mark.parametrize("name", ["a-vae", "av-vae", "vae-mm", "min-vae", "only latent"])
def test_traces_and_closed_forms_agree(
    name: str, make: Callable[[], VEM], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Draws, filters, noise, r(alpha) and free energy, in double precision, to 1e-6."""
    model, guide = pairs()[name]
    power = torch.rand(2, N, F, generator=Generator().manual_seed(0), dtype=torch.float64) + 0.1
    visual = torch.cat([torch.randn(N, VIEW.size - 1), torch.ones(N, 1)], -1).double()
    by_closed_form = short(make())(model, guide, power, visual, Generator().manual_seed(0))
    calls: list[int] = []
    evaluate = TracedSpeech.__call__

    def counted(self: TracedSpeech, z: Tensor) -> object:
        calls.append(1)
        return evaluate(self, z)

    monkeypatch.setattr(TracedSpeech, "__call__", counted)
    algorithm = replace(short(make()), conditioning=traced)
    by_trace = algorithm(model, guide, power, visual, Generator().manual_seed(0))
    assert calls  # the traced way was taken
    for field in ("z", "wiener_gain", "variance", "responsibilities", "acceptance"):
        torch.testing.assert_close(
            getattr(by_trace, field), getattr(by_closed_form, field), rtol=1e-6, atol=1e-6
        )
    torch.testing.assert_close(by_trace.noise.variance(), by_closed_form.noise.variance(), rtol=1e-6, atol=0)
    assert by_trace.costs == pytest.approx(by_closed_form.costs, rel=1e-6)
    other = algorithm(model, guide, power, visual, Generator().manual_seed(1))
    assert not torch.allclose(other.z, by_trace.z)


def test_the_preset_is_traced() -> None:
    assert PRESETS["vem-traced"]() == replace(default_vem(), conditioning=traced)
