"""Compare models on one noisy recording by the evidence of its frames and by leave-one-out prediction.

    python examples/compare_models.py
    python examples/compare_models.py clip.mp4 --models a-vae-grid av-vae

Without a file, the recording is a synthetic talking face in pink noise. All models are compared with the same
noise, fitted with the first model, which favours that model. Two scores are computed from draws of z: the log
evidence log p(x_n | v_n) of a frame by importance sampling, which depends on the prior given the lips, and
the log density of each bin given the rest of its frame by PSIS-LOO, which hardly does. Hidden lips are the
control. Few frames differ greatly, so read differences against their standard errors; a Pareto k above 0.7 in
most frames means that the evidence is only a rough estimate: raise --warmup, --draws and --samples.
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor

import avse
from avse.data.audio import read_audio
from avse.data.corpora.synthetic.demo import talking_face
from avse.data.errors import InputError
from avse.data.lips import read_lips
from avse.evaluation.posterior.convergence import rhat
from avse.evaluation.posterior.loo import compare, frame_evidence, loo_bins
from avse.inference.mcmc.chain import Chain, ChainState
from avse.inference.mcmc.kernels import HMC
from avse.inference.mcmc.log_density import closure
from avse.inference.presets import algorithm_named
from avse.models.networks.lips import cached_embeddings
from avse.models.noisy import NoisySpeech
from avse.recording import Recording


def main(args: argparse.Namespace) -> None:
    if args.recording is None:
        face = talking_face(args.seed)
        samples, rate, lips = face.noisy, face.sample_rate, face.lips
    else:
        (samples, rate, *_), lips = read_audio(args.recording), read_lips(args.recording)
    samples = samples.reshape(len(samples), -1)[: round(args.seconds * rate), 0]
    recordings = {name: Recording.prepare(samples, rate, avse.load(name), lips) for name in args.models}
    first = recordings[args.models[0]]
    if any(own.pair.config.front_end != first.pair.config.front_end for own in recordings.values()):
        raise InputError("these models have different front ends: their |x|^2 differ and cannot be compared")

    generator, power = torch.Generator().manual_seed(args.seed), first.power[0]
    algorithm, _ = algorithm_named("auto", first.pair.config.algorithm)
    fitted = algorithm(first.speech, first.guide, power, first.visual, generator)
    estimate = fitted.wiener_gain.square() * power

    evidence, elpd = {}, {}
    print(f"{'model':<32} {'median R-hat of z':>18} {'frames k > 0.7':>16} {'unreliable bins':>16}")
    for name, visual in conditions(recordings).items():
        own = recordings[name.split(",")[0]]
        model = NoisySpeech(own.speech, fitted.noise)
        log_joint = closure(model, power=power, visual=visual)
        with torch.no_grad(), cached_embeddings():
            encoded = torch.stack([own.guide.posterior(p, visual).mean for p in (estimate, power)])
            start = encoded.repeat(2, 1, 1) + 0.1 * torch.randn(4, *encoded.shape[1:], generator=generator)
            chain = Chain(HMC(0.1, leapfrog_steps=8), args.warmup + args.draws, args.warmup, 0.7)
            z = chain(log_joint, ChainState(start), generator)[0].z.transpose(0, 1)
            frames = frame_evidence(log_joint, z, generator, samples=args.samples)
        bins = loo_bins(model, z, power, visual)
        evidence[name], elpd[name] = frames.log_evidence, bins.elpd
        poor, unreliable = (frames.pareto_k > 0.7).double().mean(), bins.unreliable.double().mean()
        print(f"{name:<32} {float(rhat(z).median()):18.3f} {float(poor):16.1%} {float(unreliable):16.1%}")
    for title, scores in (("log evidence", evidence), ("PSIS-LOO", elpd)):
        print(f"\n{title + ', nats per frame':<32} {'mean':>10} {'best minus model':>24}")
        for name, result in compare(scores).items():
            difference = f"{result.difference:.1f} ± {result.standard_error:.1f}"
            print(f"{name:<32} {result.score:10.1f} {difference:>24}")


def conditions(recordings: dict[str, Recording]) -> dict[str, Tensor | None]:
    """Visual input (N, D) of every model, and no visible lips as a control for those that use lips."""
    result: dict[str, Tensor | None] = {}
    for name, recording in recordings.items():
        result[name] = recording.visual
        if recording.visual is not None:
            result[f"{name}, lips hidden"] = torch.zeros_like(recording.visual)
    return result


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    result.add_argument("recording", type=Path, nargs="?", help="video of a speaker")
    result.add_argument("--models", nargs="+", default=["a-vae", "av-vae-synthetic"])
    result.add_argument("--seconds", type=float, default=1.0)
    result.add_argument("--warmup", type=int, default=40)
    result.add_argument("--draws", type=int, default=40)
    result.add_argument("--samples", type=int, default=400, help="of importance sampling")
    result.add_argument("--seed", type=int, default=0)
    return result


if __name__ == "__main__":
    main(parser().parse_args())
