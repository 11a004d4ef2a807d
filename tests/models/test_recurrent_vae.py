"""The recurrent VAE: its frames are coupled, closed form and trace agree, it trains and is served."""

from pathlib import Path

import numpy as np
import pytest
import torch

import avse
from avse.data.errors import InputError
from avse.data.front_end import FrontEnd
from avse.data.stft import STFT
from avse.inference.mcmc.chain import Chain, ChainState
from avse.inference.mcmc.coupled import EvenOdd
from avse.inference.mcmc.kernels import MALA
from avse.inference.mcmc.log_density import check_coupling, closure
from avse.inference.svi.elbo import AnalyticKLTraceEnumELBO, MeanOfRecordings
from avse.models.a_vae import AVAE, StandardNormal
from avse.models.base import TracedSpeech
from avse.models.coupling import Coupling
from avse.models.noisy import ConstantNoise, NoisySpeech
from avse.models.recurrent_vae import RecurrentVAE
from avse.zoo.pair import PairConfig, SpeechPair, load_folder

F, L, N = 33, 3, 7
SIZES = {
    "latent_size": L,
    "encoder_channels": 8,
    "encoder_dilations": [1, 2],
    "decoder_channels": 8,
    "decoder_dilations": [1],
}


@pytest.fixture(params=["dilated", "lstm"])
def pair(request: pytest.FixtureRequest) -> SpeechPair:
    torch.manual_seed(0)
    arguments = {**SIZES, "network": request.param}
    return SpeechPair(PairConfig("rvae", arguments, FrontEnd(STFT(64, 32)), algorithm="fine-tuned"))


@pytest.mark.parametrize("batch", [(), (2, 3)])
def test_closed_form_is_the_trace(pair: SpeechPair, batch: tuple[int, ...]) -> None:
    """Also for several recordings, each of which is decoded by itself."""
    z = torch.randn(*batch, N, L, generator=torch.Generator().manual_seed(0))
    found, traced = pair.model.given()(z), TracedSpeech(pair.model)(z)
    torch.testing.assert_close(found.log_prior, traced.log_prior)
    torch.testing.assert_close(found.log_variance, traced.log_variance)
    if batch:
        torch.testing.assert_close(pair.model.given()(z[1, 2]).log_variance, found.log_variance[:, 1, 2])


def test_frames_are_coupled_to_both_sides(pair: SpeechPair, generator: torch.Generator) -> None:
    power = torch.rand(N, F, generator=generator)
    z = torch.zeros(N, L)
    terms = pair.model.given().log_joint_fn(power)
    middle = torch.zeros(N, L)
    middle[N // 2] = 1.0
    moved = (terms(middle) - terms(z))[0].abs() > 1e-6
    assert moved[N // 2 - 1]
    assert moved[N // 2 + 1]
    assert pair.model.coupling is Coupling.SEQUENCE
    stated = AVAE(StandardNormal(L), pair.model.decoder)  # the same decoder, said to be of single frames
    assert stated.coupling is Coupling.INDEPENDENT
    with pytest.raises(InputError, match="states that its frames are independent"):
        check_coupling(lambda own: stated.given().log_joint_fn(power)(own)[0], z)


def test_bound_improves_in_training(pair: SpeechPair) -> None:
    power = torch.rand(4, N, F, generator=torch.Generator().manual_seed(1)) ** 4
    pair.model.fit_scales(power.flatten(0, 1))
    pair.guide.fit_scales(power.flatten(0, 1))
    bound = MeanOfRecordings(AnalyticKLTraceEnumELBO(max_plate_nesting=2))
    optimiser = torch.optim.Adam(pair.modules().parameters(), 0.01)
    losses = []
    for _ in range(40):
        loss = bound.differentiable_loss(pair.model, pair.guide, power=power)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert all(parameter.grad is not None for parameter in pair.modules().parameters())
    assert sum(losses[-5:]) < sum(losses[:5]) - 5


X = np.random.default_rng(0).standard_normal(500).astype(np.float32)


def test_a_saved_pair_enhances(pair: SpeechPair, tmp_path: Path) -> None:
    pair.save_pretrained(tmp_path)
    loaded = load_folder(tmp_path)
    assert isinstance(loaded.model, RecurrentVAE)
    for algorithm in ("auto", "mcem", "amortised"):
        enhancement = avse.enhance(X, 16000, model=loaded, algorithm=algorithm)
        assert np.isfinite(enhancement.speech).all()
    for algorithm in ("vem", "paper", "mcem-mixture"):
        with pytest.raises(InputError, match="coupled over the whole recording"):
            avse.enhance(X, 16000, model=loaded, algorithm=algorithm)


def test_every_second_frame_is_refused(pair: SpeechPair, generator: torch.Generator) -> None:
    noisy = NoisySpeech(pair.model, ConstantNoise(torch.ones(N), torch.ones(N, F)))
    with pytest.raises(InputError, match="EvenOdd"):
        Chain(EvenOdd(MALA()))(
            closure(noisy, power=torch.ones(N, F)), ChainState(torch.zeros(N, L)), generator
        )
