"""A defensive mixture against its formula, and the bound that it promises."""

import math

import pytest
import torch

from avse.data.errors import InputError
from avse.models.networks.spectrum import GaussianEncoder
from avse.models.robust_prior import DefensiveMixture, RobustPrior


def test_density_is_that_of_the_two_terms() -> None:
    torch.manual_seed(0)
    centre, scale, z = torch.randn(7, 4).double(), torch.rand(7, 4).double() + 0.2, torch.randn(7, 4).double()
    near = torch.distributions.Normal(centre, scale).log_prob(z).sum(-1)
    far = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(-1)
    truth = torch.log(0.9 * near.exp() + 0.1 * far.exp())
    torch.testing.assert_close(DefensiveMixture(centre, scale, 0.1).log_prob(z), truth)


def test_no_lips_cost_more_than_the_share_of_the_second_term() -> None:
    wrong = DefensiveMixture(torch.full((8,), 12.0).double(), torch.full((8,), 1e-3).double(), 0.05)
    z = torch.randn(50, 8, generator=torch.Generator().manual_seed(0)).double()
    plain = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(-1)
    assert (wrong.log_prob(z) >= plain + math.log(0.05) - 1e-9).all()


def test_samples_come_from_both_terms() -> None:
    torch.manual_seed(0)
    drawn = DefensiveMixture(torch.full((2,), 9.0), torch.full((2,), 0.1), 0.25).sample(torch.Size([4000]))
    share = float((drawn[:, 0] < 5).float().mean())
    assert abs(share - 0.25) < 5 * math.sqrt(0.25 * 0.75 / 4000)  # fails once in two million


def test_temperature_widens() -> None:
    network = GaussianEncoder(3, (4,), 2)
    embedding = torch.randn(5, 3)
    narrow, wide = RobustPrior(network)(embedding), RobustPrior(network, temperature=2.0)(embedding)
    torch.testing.assert_close(2 * narrow.stddev, wide.stddev)
    with pytest.raises(InputError, match="temperature"):
        RobustPrior(network, temperature=0.0)
