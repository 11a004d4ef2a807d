"""The log joint density of every frame as a function of z, which is all that a sampler needs of a model.

Where the frames of a model are coupled (`avse.models.coupling`) it is a `CoupledLogJoint`, which kernels for
independent frames cannot call.

`frame_log_joint` computes it from one trace of any Pyro model with a site "z" inside a frames plate.
`closure` uses the method `log_joint_fn(**data)` of a model instead of a trace, if the model has that method.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from pyro import poutine
from pyro.infer import config_enumerate
from torch import Tensor

from avse.data.errors import InputError
from avse.models.base import TRACE_LOCK
from avse.models.coupling import Coupling, coupling_of
from avse.models.parameters import local_parameters
from avse.models.sites import Z

Model = Callable[..., object]
LogJoint = Callable[[Tensor], Tensor]
"""z (*, N, L) -> log p(data, z) of every frame, (*, N), with alpha (if any) summed out. Of coupled frames see
`CoupledLogJoint`."""


@dataclass(frozen=True)
class CoupledLogJoint:
    """A log joint whose terms are no densities of single frames.

    Args:
        terms: z (*, N, L) -> a term of every frame, (*, N), whose sum is log p(data, z).
        coupling: of the frames.
    """

    terms: LogJoint
    coupling: Coupling

    def __call__(self, z: Tensor) -> Tensor:
        """Not possible: see `frame_terms`.

        Raises:
            InputError: always.
        """
        raise InputError(
            f"the frames of this model are {self.coupling.value}, and there is no log density of one frame: "
            "use a kernel of avse.inference.mcmc.coupled"
        )


def with_coupling(log_joint: LogJoint, coupling: Coupling) -> LogJoint:
    """The log joint itself for independent frames, else a `CoupledLogJoint`."""
    return log_joint if coupling is Coupling.INDEPENDENT else CoupledLogJoint(log_joint, coupling)


def frame_terms(log_joint: LogJoint) -> LogJoint:
    """z (*, N, L) -> terms (*, N) that sum to the log joint, of coupled frames as of independent ones."""
    return log_joint.terms if isinstance(log_joint, CoupledLogJoint) else log_joint


@torch.no_grad()
def check_coupling(log_joint: LogJoint, z: Tensor) -> None:
    """Compare the coupling that a model states with what its terms do when z changes in every third frame.

    It costs two evaluations. Chains of a recording are checked once, before they start.

    Args:
        log_joint: of the model.
        z: any latents (*, N, L).

    Raises:
        InputError: terms of frames changed that do not depend on those z as the model states it.
    """
    coupling = coupling_of(log_joint)
    if coupling is Coupling.SEQUENCE or z.shape[-2] < 2:
        return
    terms, changed = frame_terms(log_joint), z.clone()
    changed[..., ::3, :] += 1.0
    before, after = terms(z), terms(changed)
    same = torch.isclose(after, before, rtol=1e-5, atol=1e-3)
    same[..., ::3] = True
    if coupling is Coupling.MARKOV:
        same[..., 1::3] = True
    if not bool((same | before.isnan() | after.isnan()).all()):
        raise InputError(
            f"this model states that its frames are {coupling.value}, but the density of a frame depends on "
            "z of others: give it the right property `coupling` (avse.models.coupling)"
        )


def frame_log_joint(model: Model, z: Tensor, **data: Tensor | None) -> Tensor:
    """log p(data, z, alpha) of every frame and every value of alpha, by one traced evaluation.

    Chains and batches are dimensions left of N; alpha is enumerated left of those. What does not depend on z
    is left out: sites outside of the frames plate, such as those of a noise estimate.

    Args:
        model: a Pyro model with site "z" of event shape (L,) in a frames plate at dimension -1.
        z: latents (*, N, L).
        data: keyword arguments of the model, such as power (*, N, F) and visual (*, N, D).

    Returns:
        (A, *, N), with A = 1 for a model without alpha.

    Raises:
        InputError: a site outside of the frames plate is sampled.
    """
    enumerated = poutine.enum(config_enumerate(model), first_available_dim=-z.dim())
    with TRACE_LOCK, local_parameters():
        trace = poutine.trace(poutine.condition(enumerated, {Z: z})).get_trace(**data)
        log_prob = _frames_log_prob(trace)
    return log_prob if log_prob.dim() == z.dim() else log_prob.unsqueeze(0)


def _frames_log_prob(trace: poutine.Trace) -> Tensor:
    """Sum of the log probabilities of the sites in the frames plate, (*, N).

    Raises:
        InputError: a site outside of the plate is sampled, so that the frames are not independent.
    """
    sampled = [node for node in trace.nodes.values() if node["type"] == "sample"]
    sampled = [node for node in sampled if not poutine.util.site_is_subsample(node)]
    inside = {
        node["name"]
        for node in sampled
        if any(frame.vectorized and frame.dim == -1 for frame in node["cond_indep_stack"])
    }
    for node in sampled:
        if node["name"] not in inside and not node["is_observed"]:
            raise InputError(
                f"site {node['name']!r} is sampled outside of the frames plate, and frames are not "
                "independent: condition on it, or sample all sites jointly with "
                "avse.inference.mcmc.pyro_kernel.nuts"
            )
    trace.compute_log_prob(lambda name, site: name in inside)
    terms = [node["log_prob"] for node in sampled if node["name"] in inside]
    return sum(terms[1:], start=terms[0])


def traced(model: Model, **data: Tensor | None) -> LogJoint:
    """The log joint of any model, alpha summed out, by `frame_log_joint`.

    A model with a method `with_constant_noise` is replaced by what that returns, the same in every frame.
    """
    constant = getattr(model, "with_constant_noise", None)
    frames: Model = model if constant is None else constant()
    log_joint: LogJoint = lambda z: sum_out_alpha(frame_log_joint(frames, z, **data))  # noqa: E731
    return with_coupling(log_joint, coupling_of(model))


def closure(model: Model, **data: Tensor | None) -> LogJoint:
    """The log joint, alpha summed out, by the closed form of the model if it has one, else by a trace.

    A closed form is a method `log_joint_fn(**data)` that returns z -> log joint (A, *, N).
    """
    log_joint_fn = getattr(model, "log_joint_fn", None)
    if log_joint_fn is None:
        return traced(model, **data)
    log_joint = log_joint_fn(**data)
    return with_coupling(lambda z: sum_out_alpha(log_joint(z)), coupling_of(model))


def sum_out_alpha(log_joint: Tensor) -> Tensor:
    """logsumexp over the leading dimension of alpha: (A, *, N) -> (*, N)."""
    return log_joint[0] if log_joint.shape[0] == 1 else log_joint.logsumexp(0)
