"""The dilated network against torch's convolution, and its receptive field."""

import pytest
import torch
from torch import nn

from avse.models.networks.context import DilatedBlock, DilatedNetwork


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
