"""p(alpha | x): given z, exactly and by draws; or from the evidence of every component.

    p(alpha_n | x_n, z_n, v_n) proportional to p(x_n | z_n, v_n, alpha_n) p(z_n | v_n, alpha_n) p(alpha_n)

Given z the frames are independent of each other. An `AlphaStep` computes r(alpha) from the evidence of every
component instead, frame by frame or with a Markov chain over time,

    p(alpha_1, .., alpha_N) prop. to prod_n p(alpha_n | v_n) T(alpha_n, alpha_{n-1})

where T keeps alpha with probability 1 - 1 / `frames`. The forward-backward recursion is a product of A x A
matrices, computed by a parallel scan in log2 N rounds instead of N steps.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from pyro import poutine
from pyro.infer import config_enumerate, infer_discrete
from torch import Generator, Tensor

from avse.data.errors import InputError
from avse.models.alpha_chain import AlphaChain, prefixes
from avse.models.coupling import check_alpha
from avse.models.noisy import NoisySpeech
from avse.models.sites import ALPHA, Z

MAX_LOG_ODDS = 30.0
"""A value of alpha of positive probability gets at least e^-30 of the largest responsibility of its frame."""

MIN_LOG_PROB = -1e20
"""A log probability below this is treated as that of an impossible event, log 0."""

MAX_FRAME_LOG_ODDS = 1e4
"""The log odds of a single frame are limited to this in the smoothing over time."""

AlphaStep = Callable[[Tensor, Tensor], Tensor]
"""(log p(alpha | v), log p(x | alpha, v)) of every frame, each (A, *, N) -> r(alpha), (A, *, N)."""


def independent(log_prior: Tensor, log_evidence: Tensor) -> Tensor:
    """r_n(a) prop. to p(a | v_n) p(x_n | a, v_n): Bayes' rule."""
    return normalised(log_prior + log_evidence)


def normalised(logits: Tensor) -> Tensor:
    """Softmax over the first dimension, of logits clipped at `MAX_LOG_ODDS` below the largest.

    A logit of -inf gives probability 0; where all logits are -inf, all values are equally probable.
    """
    below = (logits - logits.amax(0, keepdim=True)).nan_to_num(nan=0.0, neginf=-torch.inf)
    return below.clamp_min(-MAX_LOG_ODDS).where(below > MIN_LOG_PROB, below).softmax(0)


@dataclass(frozen=True)
class MarkovSmoothing:
    """r_n(a) under a Markov chain in which a value of alpha lasts for `frames` frames on average.

    Args:
        frames: mean duration of a value of alpha in frames, more than 1.

    Raises:
        InputError: `frames` is not above 1.
    """

    frames: float = 30.0

    def __post_init__(self) -> None:
        if not self.frames > 1:
            raise InputError(f"a mean duration of alpha of {self.frames} frames: it must be more than 1")

    def __call__(self, log_prior: Tensor, log_evidence: Tensor) -> Tensor:
        """Smoothed responsibilities, (A, *, N)."""
        own = log_prior + log_evidence
        values = len(own)
        if values == 1:
            return torch.ones_like(own)
        evidence = (own - own.amax(0)).movedim(0, -1).clamp_min(-MAX_FRAME_LOG_ODDS)
        transition = evidence.new_full((values, values), -math.log(self.frames * (values - 1)))
        transition.fill_diagonal_(math.log1p(-1 / self.frames))
        steps = transition + evidence.unsqueeze(-2)  # [.., n, i, j]: from i at n - 1 to j at n
        forward = prefixes(steps)
        backward = prefixes(steps.mT.flip(-3)).flip(-3).mT
        before = forward.logsumexp(-2)  # data up to n, and alpha_n
        after = torch.zeros_like(before)
        after[..., :-1, :] = backward[..., 1:, :, :].logsumexp(-1)  # data after n, given alpha_n
        return (before + after).softmax(-1).movedim(-1, 0)


def with_chain(step: AlphaStep, chain: AlphaChain | None) -> AlphaStep:
    """A step in which alpha follows the chain of a model over time; the step itself where it has none.

    The evidence is tempered as by the step.
    """
    if chain is None:
        return step

    def smoothed(log_prior: Tensor, log_evidence: Tensor) -> Tensor:
        below = log_evidence - log_evidence.amax(0)
        return chain.smoothed(below.nan_to_num(nan=0.0).clamp_min(-MAX_FRAME_LOG_ODDS))

    return replace(step, step=smoothed) if isinstance(step, Tempered) else smoothed


@dataclass(frozen=True)
class Tempered:
    """r_n(a) prop. to p(a | v_n) p(x_n | a, v_n)^weight: tempered evidence.

    The evidence of a frame multiplies hundreds of bins of overlapping windows as if they were independent,
    and depends on which component explains the sound better rather than on whether the lips are corrupted.
    With weight 1 it dominates any prior.

    Args:
        weight: from 0, the prior alone, to 1, Bayes' rule.
        step: computes r(alpha) from the tempered evidence.

    Raises:
        InputError: `weight` is outside [0, 1].
    """

    weight: float
    step: AlphaStep = independent

    def __post_init__(self) -> None:
        if not 0 <= self.weight <= 1:
            raise InputError(f"an evidence weight of {self.weight}: it must lie between 0 and 1")

    def __call__(self, log_prior: Tensor, log_evidence: Tensor) -> Tensor:
        """Responsibilities, (A, *, N)."""
        lowest = torch.finfo(log_evidence.dtype).min
        return self.step(log_prior, self.weight * log_evidence.clamp_min(lowest))


def responsibilities(model: NoisySpeech, z: Tensor, power: Tensor, visual: Tensor | None = None) -> Tensor:
    """p(alpha | x, z, v), in closed form: (A, *, N), 1 for a model without alpha.

    Args:
        model: the speech and noise models.
        z: latents (*, N, L).
        power: |x|^2 (*, N, F).
        visual: lips, where the model has them.
    """
    check_alpha(model)
    return model.log_joint(z, power, visual).softmax(0)


def draw_component(
    probabilities: Tensor, generator: Generator, sample_shape: tuple[int, ...] | torch.Size = ()
) -> Tensor:
    """Values of alpha drawn with probabilities (A, *, N): indices (*sample_shape, *, N)."""
    shape = (*sample_shape, *probabilities.shape[1:])
    uniform = torch.rand(shape, generator=generator, dtype=probabilities.dtype, device=probabilities.device)
    drawn = torch.zeros_like(uniform, dtype=torch.long)
    for edge in probabilities.cumsum(0)[:-1]:
        drawn += uniform >= edge
    return drawn


def sample_alpha(
    model: NoisySpeech, z: Tensor, power: Tensor, visual: Tensor | None, generator: Generator
) -> Tensor:
    """A draw of alpha ~ p(alpha | x, z, v) for every frame, by Pyro's `infer_discrete`: (*, N).

    It works for any model that samples a discrete alpha; `responsibilities` returns the exact probabilities.

    Args:
        model: the speech and noise models.
        z: latents (*, N, L); one alpha is drawn for each of them.
        power: |x|^2 (*, N, F).
        visual: lips, where the model has them.
        generator: seeds the draw; the state of the global generator is restored.

    Raises:
        InputError: the model has no alpha.
    """

    def conditioned_model() -> None:
        # The plates are those of the power: one for every dimension of z left of the frames.
        every = power.expand(*z.shape[:-1], power.shape[-1])
        poutine.condition(model, {Z: z})(power=every, visual=visual)

    drawn = infer_discrete(
        config_enumerate(conditioned_model), first_available_dim=-z.dim(), strict_enumeration_warning=False
    )
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    with torch.no_grad(), torch.random.fork_rng(devices=[z.device] if z.is_cuda else []):
        torch.manual_seed(seed)
        trace = poutine.trace(drawn).get_trace()
    if ALPHA not in trace.nodes:
        raise InputError("this model has no alpha to sample: it is not a mixture")
    alpha: Tensor = trace.nodes[ALPHA]["value"]
    return alpha.expand(z.shape[:-1])
