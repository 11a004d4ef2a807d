"""The kernels under pyro.infer.MCMC.

False alarms: z-scores of means over 400 frames x 2 latents with ESS-free standard errors from independent
frames; the bound 4 on one pooled score has a false-alarm rate of 6e-5.
"""

import pytest
import torch
from pyro.infer import MCMC

from avse.inference.mcmc.chain import Chain, ChainState
from avse.inference.mcmc.kernels import HMC, MALA, RandomWalk
from avse.inference.mcmc.log_density import closure
from avse.inference.mcmc.pyro_kernel import FrameMCMCKernel
from avse.models.linear_gaussian import LinearGaussian

N, F, L = 400, 4, 2


def problem() -> tuple[LinearGaussian, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    A = torch.randn(F, L, generator=generator, dtype=torch.float64)
    model = LinearGaussian(A, torch.zeros(F, dtype=torch.float64), torch.tensor(0.7, dtype=torch.float64))
    torch.manual_seed(0)
    return model, model(frames=N)


@pytest.mark.parametrize(
    ("kernel", "target"), [(RandomWalk(0.5), 0.35), (MALA(0.5), 0.57), (HMC(0.5, 3), 0.7)]
)
def test_pyro_mcmc_draws_from_the_exact_posterior(kernel, target: float) -> None:
    model, s = problem()
    exact = model.posterior(s)
    shell = FrameMCMCKernel(model, kernel, torch.zeros(N, L, dtype=torch.float64), 0, target)
    mcmc = MCMC(shell, num_samples=150, warmup_steps=100, disable_progbar=True)
    mcmc.run(s=s)
    z = mcmc.get_samples()["z"]
    assert z.shape == (150, N, L)
    # Frames are independent, so the errors of their means are too.
    error = z.mean(0) - exact.mean
    score = error.mean(0) / (error.std(0) / N**0.5)
    assert score.abs().max() < 4
    spread = (z - exact.mean).flatten(0, 1).mT.cov()
    torch.testing.assert_close(spread, exact.covariance, atol=0.03, rtol=0.1)
    acceptance = mcmc.diagnostics()["acceptance rate"]["chain 0"]
    assert abs(float(acceptance.mean()) - target) < 0.1


@pytest.mark.parametrize("kernel", [MALA(0.3), HMC(0.3)])
def test_the_shell_makes_the_moves_of_the_bare_kernel(kernel) -> None:
    model, s = problem()
    start = torch.zeros(N, L, dtype=torch.float64)
    mcmc = MCMC(FrameMCMCKernel(model, kernel, start, 5), num_samples=7, warmup_steps=3, disable_progbar=True)
    mcmc.run(s=s)
    draws, _ = Chain(kernel, 10, 3)(closure(model, s=s), ChainState(start), torch.Generator().manual_seed(5))
    torch.testing.assert_close(mcmc.get_samples()["z"], draws.z, rtol=0, atol=0)
    assert mcmc.diagnostics()["divergences"]["chain 0"] == []


def test_the_shell_lists_the_draws_with_a_divergence() -> None:
    """As Pyro's own kernels do, warm-up left out: here the whole of a chain with an absurd step."""
    model, s = problem()
    shell = FrameMCMCKernel(model, HMC(1e3), torch.zeros(N, L, dtype=torch.float64), 0)
    mcmc = MCMC(shell, num_samples=4, warmup_steps=3, disable_progbar=True)
    mcmc.run(s=s)
    assert mcmc.diagnostics()["divergences"]["chain 0"] == [0, 1, 2, 3]


def test_chains_in_one_tensor_and_preset_starts() -> None:
    model, s = problem()
    shell = FrameMCMCKernel(model, RandomWalk(0.1), torch.zeros(N, L, dtype=torch.float64), 0)
    start = torch.full((3, N, L), 5.0, dtype=torch.float64)
    shell.initial_params = {"z": start}
    mcmc = MCMC(shell, num_samples=2, warmup_steps=0, disable_progbar=True)
    mcmc.run(s=s)
    z = mcmc.get_samples()["z"]
    assert z.shape == (2, 3, N, L)
    assert (z[0] - start).abs().max() < 1


def test_data_must_be_named() -> None:
    model, s = problem()
    mcmc = MCMC(
        FrameMCMCKernel(model, MALA(), torch.zeros(N, L, dtype=torch.float64), 0), 1, 0, disable_progbar=True
    )
    with pytest.raises(ValueError, match="by name"):
        mcmc.run(s)
