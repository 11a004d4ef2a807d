"""R-hat, effective sizes and standard errors against ArviZ, one quantity at a time, and against the truth."""

import arviz as az
import numpy as np
import pytest
import torch
from torch import Tensor

from avse.evaluation.posterior import convergence as module
from avse.evaluation.posterior.convergence import bfmi, convergence

QUANTITIES = 12


def autoregressive(chains: int, draws: int, rho: Tensor, generator: torch.Generator) -> Tensor:
    """x_d = rho x_d-1 + sqrt(1 - rho^2) e_d, stationary N(0, 1): (C, D, K)."""
    noise = torch.randn(chains, draws, len(rho), generator=generator, dtype=torch.float64)
    x = noise.clone()
    for d in range(1, draws):
        x[:, d] = rho * x[:, d - 1] + (1 - rho**2).sqrt() * noise[:, d]
    return x


def by_arviz(draws: Tensor) -> np.ndarray:
    """R-hat, bulk ESS, tail ESS and MCSE of draws (C, D, K): (4, K)."""
    data = az.convert_to_dataset({"x": draws.numpy()})
    alone = draws.shape[0] < 2
    with np.errstate(invalid="ignore"):  # 0 / 0 where all draws are equal
        return np.stack(
            [
                np.full(draws.shape[2:], np.nan) if alone else az.rhat(data)["x"].values,
                az.ess(data, method="bulk")["x"].values,
                az.ess(data, method="tail", prob=(0.05, 0.95))["x"].values,
                az.mcse(data, method="mean")["x"].values,
            ]
        )


@pytest.mark.parametrize("chains", [1, 2, 4])
@pytest.mark.parametrize("draws", [4, 5, 7, 10, 51, 200])
def test_equal_to_arviz(chains: int, draws: int, generator: torch.Generator) -> None:
    """From alternating to nearly constant chains, a third of them with one chain elsewhere."""
    x = autoregressive(chains, draws, torch.linspace(-0.95, 0.99, QUANTITIES).double(), generator)
    x[0, :, ::3] += 1.0
    x[-1, : draws // 2, 1::3] *= 4.0
    found = torch.stack(list(convergence(x)))
    np.testing.assert_allclose(found.numpy(), by_arviz(x), rtol=1e-6)


def test_ties_as_rejected_moves_leave_them(generator: torch.Generator) -> None:
    """Tail ESS is compared by its indicators: ArviZ before 1.0 rounds quantiles off their tied values."""
    x = autoregressive(4, 100, torch.full((QUANTITIES,), 0.5).double(), generator).round(decimals=1)
    found = convergence(x)
    expected = by_arviz(x)
    np.testing.assert_allclose(torch.stack([found.rhat, found.ess_bulk]), expected[:2], rtol=1e-6)
    np.testing.assert_allclose(found.mcse, expected[3], rtol=1e-6)
    sizes = []
    for quantile in (0.05, 0.95):
        below = x <= torch.from_numpy(np.quantile(x.numpy(), quantile, axis=(0, 1)))
        data = az.convert_to_dataset({"x": below.double().numpy()})
        sizes.append(az.ess(data, method="mean")["x"].values)
    np.testing.assert_allclose(found.ess_tail, np.minimum(*sizes), rtol=1e-6)


def test_two_values_and_constants_as_arviz() -> None:
    """All draws equal: no R-hat, and by convention as many effective draws as draws."""
    x = torch.stack(
        [
            torch.ones(4, 50, dtype=torch.float64),
            torch.randn(4, 50, dtype=torch.float64).sign(),
            torch.zeros(4, 50, dtype=torch.float64),
        ],
        -1,
    )
    np.testing.assert_allclose(torch.stack(list(convergence(x))), by_arviz(x), rtol=1e-6)
    assert convergence(x).rhat.isnan().tolist() == [True, False, True]
    assert convergence(x).ess_bulk[0] == 200


def test_chains_that_never_move_disagree_without_bound() -> None:
    x = torch.tensor([0.3, 0.1, 0.7, 0.4], dtype=torch.float64)[:, None, None].expand(4, 60, 1)
    assert convergence(x).rhat > 1e6
    assert convergence(x).ess_bulk < 5


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_one_bad_draw_spoils_its_own_quantity_alone(bad: float) -> None:
    x = torch.randn(4, 50, 3, dtype=torch.float64)
    clean = torch.stack(list(convergence(x)))
    x[2, 7, 1] = bad
    found = torch.stack(list(convergence(x)))
    assert found[:, 1].isnan().all()
    torch.testing.assert_close(found[:, ::2], clean[:, ::2], rtol=1e-10, atol=1e-12)


def test_too_few_draws_tell_nothing() -> None:
    for values in convergence(torch.randn(4, 3, 5, 2)):
        assert values.shape == (5, 2)
        assert values.isnan().all()


def test_any_shape_in_any_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(3, 20, 2, 5, 3)
    whole = convergence(x)
    monkeypatch.setattr(module, "BATCH_SIZE", 200)
    for parts, values in zip(convergence(x), whole, strict=True):
        assert parts.dtype == torch.float64
        torch.testing.assert_close(parts, values, rtol=1e-10, atol=1e-12)
    alone = convergence(x[:, :, 1, 4, 2])
    torch.testing.assert_close(torch.stack(list(alone)), torch.stack([v[1, 4, 2] for v in whole]))


def test_bfmi_by_its_formula(generator: torch.Generator) -> None:
    energy = autoregressive(3, 80, torch.tensor([0.0, 0.9]).double(), generator)
    values = energy.numpy()
    expected = np.square(np.diff(values, axis=1)).mean(1) / values.var(1, ddof=1)
    np.testing.assert_allclose(bfmi(energy), expected, rtol=1e-9)
    assert expected[:, 1].mean() < 0.7 < 1.5 < expected[:, 0].mean()


@pytest.mark.parametrize("rho", [-0.5, 0.0, 0.8])
def test_effective_size_and_standard_error_are_true(rho: float, generator: torch.Generator) -> None:
    """Of AR(1) chains the effective size is C D (1 - rho) / (1 + rho); errors of means divided by their
    standard errors have variance 1.

    400 independent quantities. The mean squared ratio has standard deviation sqrt(2 / 400) = 0.07, a little
    more for estimated errors: bounds at 0.35 have false alarms below 1e-4.
    """
    x = autoregressive(4, 500, torch.full((400,), rho).double(), generator)
    found = convergence(x)
    truth = 2000 * (1 - rho) / (1 + rho)
    assert abs(float(found.ess_bulk.mean()) / truth - 1) < 0.1
    assert abs(float((x.mean((0, 1)) / found.mcse).square().mean()) - 1) < 0.35


def test_independent_draws_pass_and_shifted_chains_fail(generator: torch.Generator) -> None:
    """4 x 200 draws of 2000 quantities: past 1.01 are a few in a hundred by chance, past 1.05 none; with one
    chain shifted by one standard deviation, all are past 1.05. These shares state the false alarms."""
    x = autoregressive(4, 200, torch.zeros(2000).double(), generator)
    past = convergence(x).rhat
    assert (past > 1.01).double().mean() < 0.05
    assert (past > 1.05).sum() == 0
    x[0] += 1.0
    assert (convergence(x).rhat > 1.05).double().mean() > 0.99
