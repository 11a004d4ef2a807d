"""The dilated network against torch's convolution, and its receptive field."""

import pytest
import torch
from torch import nn

from avse.models.networks.context import DilatedBlock, DilatedNetwork, LipRefinement


@pytest.mark.parametrize("dilation", [1, 4])
def test_a_block_is_a_dilated_convolution(dilation):
    torch.manual_seed(0)
    block = DilatedBlock(5, dilation).double()
    convolution = nn.Conv1d(5, 5, 3, padding=dilation, dilation=dilation).double()
    with torch.no_grad():
        convolution.weight.copy_(block.taps.weight.reshape(5, 3, 5).transpose(1, 2))
        convolution.bias.copy_(block.taps.bias)
    hidden = torch.randn(2, 11, 5, dtype=torch.float64)
    expected = hidden + block.mix(nn.functional.silu(convolution(block.norm(hidden).mT).mT))
    torch.testing.assert_close(block(hidden), expected)


def test_an_output_depends_on_its_receptive_field_and_on_nothing_else():
    torch.manual_seed(0)
    network = DilatedNetwork(3, 8, (1, 2, 4), 2)
    features = torch.randn(1, 41, 3, requires_grad=True)
    network(features)[0, 20].sum().backward()
    used = (features.grad[0].abs().sum(-1) > 0).nonzero().flatten().tolist()
    assert used == list(range(13, 28))  # 1 + 2 (1 + 2 + 4) = 15 frames


def test_leading_dimensions_are_a_batch():
    torch.manual_seed(0)
    network = DilatedNetwork(3, 8, (1, 2), 4).double()
    features = torch.randn(2, 3, 9, 3, dtype=torch.float64)
    out = network(features)
    assert out.shape == (2, 3, 9, 4)
    torch.testing.assert_close(out[1, 2], network(features[1, 2]))


@pytest.fixture
def refinement() -> LipRefinement:
    torch.manual_seed(0)
    network = LipRefinement(6, 2, 5, 4, 8, (1, 2), dropout=0.5).eval()
    torch.nn.init.normal_(network.last.weight)
    return network


def test_a_refinement_begins_as_no_change():
    change = LipRefinement(6, 2, 5, 4, 8, (1, 2))(
        torch.randn(3, 11, 6), torch.randn(3, 11, 2), torch.ones(11, 5)
    )
    assert change.mean.shape == change.log_variance.shape == (3, 11, 2)
    assert not change.mean.any()
    assert not change.log_variance.any()


def test_frames_without_lips_are_not_refined(refinement):
    """The other frames are, by lips of up to three frames away."""
    hidden, mean, visual = torch.randn(1, 20, 6), torch.randn(1, 20, 2), torch.rand(20, 5)
    visual[:, -1] = 1.0
    visual[9] = 0.0
    change = refinement(hidden, mean, visual)
    assert not change.mean[0, 9].any()
    assert not change.log_variance[0, 9].any()
    assert (change.mean[0, :9].abs().sum(-1) > 0).all()
    visual[3] += 1.0
    other = refinement(hidden, mean, visual)
    moved = (other.mean - change.mean).abs().sum(-1)[0].nonzero().flatten().tolist()
    assert moved == [0, 1, 2, 3, 4, 5, 6]
