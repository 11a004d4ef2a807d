"""A pair with a part that its architecture does not build is saved exactly, or not at all."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

import avse
from avse.data.errors import InputError
from avse.guides.audio import AudioGuide
from avse.guides.base import SpeechGuide
from avse.models.a_vae import AVAE
from avse.models.networks.spectrum import GaussianEncoder, LogPower, SpectrumDecoder
from avse.zoo.architectures import ARCHITECTURES, register
from avse.zoo.pair import PairConfig, SpeechPair


class Flow(nn.Module):
    """z = A e with e normal, as a flow whose log scales are trained."""

    def __init__(self, latent_size: int) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.full((latent_size,), 0.3))

    def forward(self) -> dist.TorchDistribution:
        base = dist.Normal(torch.zeros_like(self.log_scale), 1.0)
        scaled = dist.transforms.AffineTransform(0.0, self.log_scale.exp())
        return dist.TransformedDistribution(base, [scaled]).to_event(1)


class Doubled(SpectrumDecoder):
    def forward(self, z: Tensor, embedding: Tensor | None = None) -> Tensor:
        return 2 * super().forward(z, embedding)


class OtherGuide(SpeechGuide):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(33, 3)

    def posterior(self, power: Tensor | None = None, visual: Tensor | None = None) -> dist.TorchDistribution:
        return dist.Normal(self.encoder(power), 1.0).to_event(1)


def laplace() -> dist.TorchDistribution:
    return dist.Laplace(torch.zeros(3), 1.0).to_event(1)


def function_as_prior(pair: SpeechPair) -> None:
    del pair.model.prior
    pair.model.prior = laplace


def other_sizes(pair: SpeechPair) -> None:
    pair.model.decoder = SpectrumDecoder(3, [9], 33)


CHANGES: dict[str, Callable[[SpeechPair], None]] = {
    "a flow as prior": lambda pair: setattr(pair.model, "prior", Flow(3)),
    "a function as prior": function_as_prior,
    "a guide": lambda pair: setattr(pair, "guide", OtherGuide()),
    "a decoder of another type": lambda pair: setattr(pair.model, "decoder", Doubled(3, [8], 33)),
    "a decoder of another size": other_sizes,
    "a model": lambda pair: setattr(pair, "model", AVAE(laplace, pair.model.decoder)),
    "a method": lambda pair: setattr(pair.model, "latent", lambda visual=None: None),
    "a plain attribute": lambda pair: setattr(pair.guide.features, "floor", 0.5),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_pair_is_refused_before_anything_is_written(
    change: str, tiny_pair: SpeechPair, tmp_path: Path
) -> None:
    CHANGES[change](tiny_pair)
    with pytest.raises(InputError, match="register"):
        tiny_pair.save_pretrained(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", avse.zoo.shipped())
def test_shipped_pairs_can_be_saved(name: str) -> None:
    avse.load(name).check_restorable()


@pytest.fixture
def flow_architecture() -> Iterator[str]:
    @register("flow")
    def build(bins: int, latent_size: int = 3) -> tuple[AVAE, AudioGuide]:
        guide = AudioGuide(LogPower(bins), GaussianEncoder(bins, [8], latent_size))
        return AVAE(Flow(latent_size), SpectrumDecoder(latent_size, [8], bins)), guide

    yield "flow"
    del ARCHITECTURES["flow"]


def test_a_registered_builder_restores_the_pair(
    flow_architecture: str, tiny_config: PairConfig, tmp_path: Path
) -> None:
    pair = SpeechPair(PairConfig(flow_architecture, {"latent_size": 4}, tiny_config.front_end))
    pair.model.prior.log_scale.data.fill_(0.75)
    pair.save_pretrained(tmp_path)
    again = avse.load(tmp_path)
    assert isinstance(again.model.prior, Flow)
    torch.testing.assert_close(again.model.prior.log_scale, torch.full((4,), 0.75))
    assert again.fingerprint() == pair.fingerprint()


def test_builders_that_cannot_be_restored_are_refused() -> None:
    with pytest.raises(InputError, match="another builder"):
        register("a-vae")(lambda bins: None)
    with pytest.raises(InputError, match="bins"):
        register("mine")(lambda: None)
    with pytest.raises(InputError, match="annotation and a default"):
        register("mine")(lambda bins, size: None)


def test_amortised_inference_is_for_the_pair_that_it_was_trained_with() -> None:
    assert avse.load("a-vae").algorithm == "amortised"
    assert avse.load("vae-mm").algorithm == "amortised-lips"
    changed = avse.load("a-vae")
    changed.model.prior = Flow(32)
    assert changed.algorithm == "mcem"
    mixture = avse.load("vae-mm")
    mixture.guide.branches[1].context = None
    assert mixture.algorithm == "mcem-mixture"
    x = 0.1 * torch.randn(4000, generator=torch.Generator().manual_seed(0)).numpy()
    assert avse.enhance(x, 16000, model=changed).report["algorithm"] == "mcem"
    assert avse.enhance(x, 16000, model="a-vae").report["algorithm"] == "amortised"
