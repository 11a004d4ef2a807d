"""Expectation-maximisation with draws against the exact answer, on a model where both are known.

    python examples/linear_gaussian_em.py --figure linear_gaussian.png

The talk's first example: z ~ N(0, I), s | z ~ N(A z + mu, sigma I). Its posterior is normal, so that EM can
be run twice: with exact expectations, and with a Markov chain in their place, which is what enhancement does
where no closed form exists. The lesson: the two climb the same log evidence, up to the Monte Carlo error of
the draws, and the draws lie in the ellipse of the exact posterior. Both end above the evidence of the true
parameters, as a maximum of the likelihood does. (z is known only up to a rotation, so that the z that s was
drawn with is no reference.) `EM`, the kernel and the E-step are those of speech enhancement, unchanged.
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor

from avse.evaluation.figures import em_figure, write_figure
from avse.inference.em.em import EM
from avse.inference.em.m_steps import LinearGaussianStep
from avse.inference.mcmc.chain import Chain, ChainState
from avse.inference.mcmc.kernels import MALA
from avse.inference.mcmc.log_density import closure
from avse.models.linear_gaussian import LinearGaussian

BINS, LATENTS = 8, 2


def random_model(generator: torch.Generator) -> LinearGaussian:
    A = torch.randn(BINS, LATENTS, generator=generator, dtype=torch.float64)
    mu = torch.randn(BINS, generator=generator, dtype=torch.float64)
    return LinearGaussian(A, mu, torch.tensor(0.5, dtype=torch.float64))


def exact_em(model: LinearGaussian, s: Tensor, iterations: int) -> list[float]:
    """Mean log evidence a frame before every iteration of EM with the closed-form posterior."""
    trace = []
    for _ in range(iterations):
        trace.append(float(model.log_evidence(s).mean()))
        mean, covariance = model.posterior(s)
        model = model.maximised(s, mean, len(s) * covariance + mean.mT @ mean)
    return trace


def main(args: argparse.Namespace) -> None:
    generator = torch.Generator().manual_seed(args.seed)
    torch.manual_seed(args.seed)
    truth = random_model(generator)
    s = truth(frames=args.frames)
    start = random_model(generator)

    e_step = Chain(MALA(0.5), num_steps=40, warmup=20, target_acceptance=0.57)
    em = EM(e_step, LinearGaussianStep(), iterations=args.iterations, tolerance=0.0)
    z = torch.zeros(args.frames, LATENTS, dtype=torch.float64)
    fitted = em.run(start, ChainState(z), generator, s=s)
    exact = exact_em(start, s, args.iterations)
    print(f"log evidence a frame: EM with draws {-fitted.costs[-1]:.3f}, exact EM {exact[-1]:.3f}, ", end="")
    print(f"truth {truth.log_evidence(s).mean():.3f}")

    draws, _ = Chain(MALA(0.5), 600, 100, target_acceptance=0.57)(
        closure(fitted.model, s=s), fitted.chain_state, generator
    )
    mean, covariance = fitted.model.posterior(s)
    error = (draws.z.mean(0) - mean).abs().max()
    print(f"posterior means: largest difference between draws and closed form {error:.3f}")
    if args.figure is not None:
        sampled, true_evidence = [-cost for cost in fitted.costs], float(truth.log_evidence(s).mean())
        write_figure(
            args.figure, em_figure(exact, sampled, true_evidence, draws.z[:, 0], mean[0], covariance)
        )


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    result.add_argument("--frames", type=int, default=200)
    result.add_argument("--iterations", type=int, default=40)
    result.add_argument("--seed", type=int, default=0)
    result.add_argument("--figure", type=Path)
    return result


if __name__ == "__main__":
    main(parser().parse_args())
