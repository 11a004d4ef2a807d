"""The gated transition of a deep Kalman filter, from one z to the next.

    g = sigmoid(W_g2 a(W_g1 z + V_g c + b_g1) + b_g2),    h = W_h2 a(W_h1 z + V_h c + b_h1) + b_h2
    mu = (1 - g) (W z + b) + g h,    log sigma = W_s a(h) + b_s

with c the embedding of the lips, where there are any: a linear step where that does, another one where not.
Krishnan, Shalit, Sontag, AAAI 2017 (arXiv 1609.09869), section 5, with a logarithm for their softplus.
"""

import torch
from torch import Tensor, nn

from avse.models.networks.spectrum import ACTIVATIONS, LOG_VARIANCE_RANGE, Gaussian, conditioned

GATE_BIAS = -2.0
"""Initial bias of g: mostly the linear step."""


class GatedTransition(nn.Module):
    """N(0, I) for the first frame, then mean and log variance of z_n given z_{n-1} and c_n, (*, M, L) each.

    It begins near z_n ~ N(z_{n-1}, I).

    Args:
        latent_size: L.
        hidden: size of the hidden layers of g and h.
        activation: a, a key of `ACTIVATIONS`.
        embedding_size: E of the embedding c; 0 for none.
    """

    zero: Tensor

    def __init__(
        self, latent_size: int, hidden: int = 128, activation: str = "silu", embedding_size: int = 0
    ) -> None:
        super().__init__()
        self.gate = _perceptron(latent_size, hidden, activation, GATE_BIAS)
        self.change = _perceptron(latent_size, hidden, activation)
        self.linear = nn.Linear(latent_size, latent_size)
        self.spread = nn.Sequential(ACTIVATIONS[activation](), nn.Linear(latent_size, latent_size))
        self.gate_condition = nn.Linear(embedding_size, hidden, bias=False) if embedding_size else None
        self.change_condition = nn.Linear(embedding_size, hidden, bias=False) if embedding_size else None
        nn.init.eye_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        self.register_buffer("zero", torch.zeros(latent_size), persistent=False)

    def initial(self, context: Tensor | None = None) -> Gaussian:
        """Of the first frame: N(0, I), whatever the lips."""
        return Gaussian(self.zero, self.zero)

    def forward(self, previous: Tensor, context: Tensor | None = None) -> Gaussian:
        """Of z_n, from z_{n-1} (*, M, L) and c_n (*, M, E)."""
        gate = conditioned(self.gate, previous, _shift(self.gate_condition, context)).sigmoid()
        change = conditioned(self.change, previous, _shift(self.change_condition, context))
        mean = torch.lerp(self.linear(previous), change, gate)
        return Gaussian(mean, self.spread(change).clamp(*LOG_VARIANCE_RANGE))


def _perceptron(size: int, hidden: int, activation: str, bias: float = 0.0) -> nn.Sequential:
    last = nn.Linear(hidden, size)
    nn.init.constant_(last.bias, bias)
    return nn.Sequential(nn.Linear(size, hidden), ACTIVATIONS[activation](), last)


def _shift(condition: nn.Linear | None, context: Tensor | None) -> Tensor | None:
    return None if condition is None or context is None else condition(context)
