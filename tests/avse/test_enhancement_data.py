"""The posterior of an enhancement as ArviZ's InferenceData."""

from dataclasses import replace

import arviz as az
import numpy as np
import pytest

import avse
from avse.data.errors import InputError
from avse.inference.mcmc.pyro_mcmc import PyroMCMC
from avse.inference.presets import default_mcem
from avse.models.noisy import NoisySpeech

RATE = 16000
SHORT = PyroMCMC(default_mcem(), chains=2, draws=5, warmup=5)


def noise(seconds: float, channels: int, seed: int = 0) -> np.ndarray:
    return 0.1 * np.random.default_rng(seed).standard_normal((round(seconds * RATE), channels))


@pytest.mark.parametrize(("rate", "linked"), [(RATE, True), (RATE, False), (8000, False)])
def test_its_densities_are_those_of_the_draws(rate: int, linked: bool) -> None:
    """log p(x | z) of every frame, with power and speech model taken from the enhancement alone."""
    x = noise(0.3, 2) * [1.0, 0.3]
    found = avse.enhance(x, rate, model="a-vae", algorithm=SHORT, link_channels=linked)
    channel = 0 if linked else 1
    tree = found.to_inference_data(channel=channel)
    posterior = found.posterior
    scaled = (found.scale.unsqueeze(-1) * found.spectrum).abs().square()[..., : tree.observed_data.x.shape[1]]
    power = scaled.mean(0) if linked else scaled[1]
    np.testing.assert_allclose(tree.observed_data.x, power, rtol=1e-4)
    z = posterior.z[:, :, channel]
    noisy = NoisySpeech(found.model, posterior.noise)
    likelihood = noisy.log_joint_fn(power=scaled.mean(0, keepdim=True) if linked else scaled)(posterior.z)
    prior = found.model.given(None)(z).log_prior[0]
    expected = likelihood[0][:, :, channel] - prior
    np.testing.assert_allclose(tree.log_likelihood.x, expected.detach(), rtol=1e-3, atol=0.05)
    assert az.summary(tree, var_names=["speech_level"]).shape[0] == 1


@pytest.mark.slow
def test_a_long_recording_is_asked_for_one_segment() -> None:
    mcem = default_mcem()
    quick = replace(mcem, em=replace(mcem.em, iterations=1))
    found = avse.enhance(noise(32, 1)[:, 0], RATE, model="a-vae", algorithm=quick)
    with pytest.raises(InputError, match="2 segments: name one"):
        found.to_inference_data()
    with pytest.raises(InputError, match="segment 2 of 2"):
        found.to_inference_data(2)
    with pytest.raises(InputError, match="channel 1 of 1"):
        found.to_inference_data(1, channel=1)
    tree = found.to_inference_data(1)
    begin = found.segments[1].start
    frame = tree.observed_data.x[0]
    power = (found.scale[0] * found.spectrum[0, begin]).abs().square()
    np.testing.assert_allclose(frame, power, rtol=1e-4)
