"""Kernels for models whose frames are coupled, made of kernels for independent frames.

    WholeSequence(kernel)   all frames are one vector, accepted or rejected as one
    EvenOdd(kernel)         the even frames given the odd ones, then the odd ones given the even ones
    ByCoupling(kernel)      the kernel itself, EvenOdd or WholeSequence, whichever the model allows

Under a first-order Markov prior and a decoder of single frames, the density of a frame given the others is

    p(z_n | z_{n-1}) p(z_{n+1} | z_n) p(x_n | z_n)

so that every second frame may move, and be accepted, by itself: exact, with a step size for each frame. One
acceptance for N frames of L latents needs smaller steps, N^-1/3 in variance for MALA (Roberts and Rosenthal,
JRSS B 1998).
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from avse.inference.mcmc.kernels import Info, Kernel, State
from avse.inference.mcmc.log_density import LogJoint, frame_terms
from avse.models.coupling import EVERY_COUPLING, NEIGHBOURS, Coupling, coupling_of


@dataclass(frozen=True)
class WholeSequence:
    """A kernel on z (*, 1, N L), all frames as one; valid for any coupling.

    The log joint and the energy of a state are divided evenly among the frames, so that they still sum to
    those of the sequence.

    Args:
        kernel: transition of one vector.
    """

    kernel: Kernel
    couplings: ClassVar = EVERY_COUPLING

    @property
    def step_size(self) -> float:
        """That of the kernel, of which long sequences need less: adapt it."""
        return self.kernel.step_size

    def init(self, z: Tensor, log_joint: LogJoint) -> State:
        """The state at z (*, N, L)."""
        return _split(self.kernel.init(_joined(z), _summed(log_joint, z.shape)), z.shape)

    def step(
        self, state: State, log_joint: LogJoint, step_size: Tensor, generator: Generator
    ) -> tuple[State, Info]:
        """One transition of every sequence, with the mean of the step sizes (*, N) of its frames."""
        shape = state.z.shape
        whole = State(
            _joined(state.z),
            state.log_joint.sum(-1, keepdim=True),
            None if state.gradient is None else _joined(state.gradient),
        )
        moved, info = self.kernel.step(
            whole, _summed(log_joint, shape), step_size.mean(-1, keepdim=True), generator
        )
        energy = None if info.energy is None else (info.energy / shape[-2]).expand(shape[:-1])
        return _split(moved, shape), Info(
            info.accepted.expand(shape[:-1]), info.log_ratio.expand(shape[:-1]), energy
        )


def _joined(values: Tensor) -> Tensor:
    """(*, N, L) -> (*, 1, N L)."""
    return values.flatten(-2).unsqueeze(-2)


def _summed(log_joint: LogJoint, shape: torch.Size) -> LogJoint:
    """z (*, 1, N L) -> log joint of the sequence, (*, 1)."""
    terms = frame_terms(log_joint)
    return lambda z: terms(z.reshape(shape)).sum(-1, keepdim=True)


def _split(state: State, shape: torch.Size) -> State:
    """A state at z (*, 1, N L) as one at z (*, N, L)."""
    return State(
        state.z.reshape(shape),
        (state.log_joint / shape[-2]).expand(shape[:-1]),
        None if state.gradient is None else state.gradient.reshape(shape),
    )


@dataclass(frozen=True)
class EvenOdd:
    """A kernel on the even frames given the odd ones, then on the odd frames given the even ones.

    Both leave the joint invariant, each frame with its own acceptance and step size. A transition costs two
    of the kernel's, and two evaluations of the log joint and its gradient.

    Args:
        kernel: transition of independent frames.
    """

    kernel: Kernel
    couplings: ClassVar = NEIGHBOURS

    @property
    def step_size(self) -> float:
        """That of the kernel."""
        return self.kernel.step_size

    def init(self, z: Tensor, log_joint: LogJoint) -> State:
        """The state at z (*, N, L), with the gradient of the sum of all terms."""
        return self.kernel.init(z, frame_terms(log_joint))

    def step(
        self, state: State, log_joint: LogJoint, step_size: Tensor, generator: Generator
    ) -> tuple[State, Info]:
        """One transition of every frame, with its own step size (*, N)."""
        terms = frame_terms(log_joint)
        infos: list[Info] = []
        for first in range(min(2, state.z.shape[-2])):
            block = slice(first, None, 2)
            alone = State(
                state.z[..., block, :],
                own_and_next(state.log_joint, first),
                None if state.gradient is None else state.gradient[..., block, :],
            )
            given = _given_others(terms, state.z, first)
            moved, info = self.kernel.step(alone, given, step_size[..., block], generator)
            state = self.kernel.init(_with_block(state.z, moved.z, first), terms)
            infos.append(info)
        return state, _interleaved(infos)


def own_and_next(terms: Tensor, first: int) -> Tensor:
    """Terms t (*, N) -> t_n + t_{n+1}, n = first, first + 2, ..: what depends on z_n under a Markov prior."""
    own, following = terms[..., first::2], terms[..., first + 1 :: 2]
    missing = own.shape[-1] - following.shape[-1]  # the last frame has no next one
    return own + torch.nn.functional.pad(following, (0, missing))


def _with_block(z: Tensor, block: Tensor, first: int) -> Tensor:
    """z (*, N, L) with the frames first, first + 2, .. replaced."""
    z = z.clone()
    z[..., first::2, :] = block
    return z


def _given_others(terms: LogJoint, z: Tensor, first: int) -> LogJoint:
    """Every second frame of z -> its log density given the others, up to a constant."""
    return lambda block: own_and_next(terms(_with_block(z, block, first)), first)


def _interleaved(infos: list[Info]) -> Info:
    """The statistics of even and odd frames, in the order of the frames."""
    if len(infos) == 1:
        return infos[0]
    even, odd = infos
    energy = None
    if even.energy is not None and odd.energy is not None:
        energy = _alternating(even.energy, odd.energy)
    return Info(
        _alternating(even.accepted, odd.accepted), _alternating(even.log_ratio, odd.log_ratio), energy
    )


def _alternating(even: Tensor, odd: Tensor) -> Tensor:
    values = even.new_empty(*even.shape[:-1], even.shape[-1] + odd.shape[-1])
    values[..., ::2], values[..., 1::2] = even, odd
    return values


@dataclass(frozen=True)
class ByCoupling:
    """The kernel itself for independent frames, `EvenOdd` of it for neighbours, else `WholeSequence`.

    Args:
        kernel: transition of independent frames.
    """

    kernel: Kernel
    couplings: ClassVar = EVERY_COUPLING

    @property
    def step_size(self) -> float:
        """That of the kernel."""
        return self.kernel.step_size

    def init(self, z: Tensor, log_joint: LogJoint) -> State:
        """The state at z (*, N, L)."""
        return self.chosen(log_joint).init(z, log_joint)

    def step(
        self, state: State, log_joint: LogJoint, step_size: Tensor, generator: Generator
    ) -> tuple[State, Info]:
        """One transition of every frame."""
        return self.chosen(log_joint).step(state, log_joint, step_size, generator)

    def chosen(self, log_joint: LogJoint) -> Kernel:
        """The kernel that serves the coupling of a log joint."""
        coupling = coupling_of(log_joint)
        if coupling is Coupling.INDEPENDENT:
            return self.kernel
        return EvenOdd(self.kernel) if coupling is Coupling.MARKOV else WholeSequence(self.kernel)
