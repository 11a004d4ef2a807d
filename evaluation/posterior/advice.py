"""What to change when the chains of a posterior analysis fail, for the kernel that made the draws.

Every advice names an option of `avse diagnose` (which samples by HMC) where there is one, and the argument of
`avse.posterior_run.ChainSettings`. A kernel of None stands for draws whose sampler is not known.
"""

from avse.inference.mcmc.kernels import HMC, Kernel

_HMC_LEAPFROG_STEPS = 10


def advise_warmup() -> str:
    """More transitions before the first kept draw."""
    return "use a longer warmup (--warmup, or ChainSettings(warmup=...))"


def advise_draws(draws: int) -> str:
    """More draws per chain."""
    return f"keep more draws (--draws {draws}, or ChainSettings(draws={draws}))"


def advise_trajectories(kernel: Kernel | None) -> str:
    """More distance per transition: more leapfrog steps of HMC, or HMC in place of another kernel."""
    if isinstance(kernel, HMC):
        steps = 2 * kernel.leapfrog_steps
        return (
            f"use longer trajectories (--leapfrog-steps {steps}, or "
            f"ChainSettings(kernel=HMC(leapfrog_steps={steps})))"
        )
    return (
        "use HMC, whose transitions cover more distance (the sampler of `avse diagnose`, or "
        f"ChainSettings(kernel=HMC(leapfrog_steps={_HMC_LEAPFROG_STEPS})))"
    )


def advise_modes(kernel: Kernel | None) -> str:
    """What may let chains move between regions that each of them does not leave."""
    return f"{advise_trajectories(kernel)}; until the chains agree, report the results of each chain"


def advise_smaller_steps(kernel: Kernel | None) -> str:
    """Smaller steps: step sizes adapt during warmup, from the initial step size of the kernel."""
    return _advise_step_size(kernel, "smaller", 0.5)


def advise_larger_steps(kernel: Kernel | None) -> str:
    """Larger steps: step sizes adapt during warmup, from the initial step size of the kernel."""
    return _advise_step_size(kernel, "larger", 2.0)


def _advise_step_size(kernel: Kernel | None, size: str, factor: float) -> str:
    if kernel is None:
        return f"use {size} steps, or the adapted ones of `avse diagnose`"
    argument = f"{type(kernel).__name__}(step_size={factor * kernel.step_size:g})"
    return (
        "use a longer warmup, in which the step sizes adapt (--warmup, or ChainSettings(warmup=...)), or a "
        f"{size} initial step size (ChainSettings(kernel={argument}))"
    )
