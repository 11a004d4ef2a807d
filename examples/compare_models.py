"""Compare models on one noisy recording by the evidence of its frames and by leave-one-out prediction.

    python examples/compare_models.py
    python examples/compare_models.py clip.mp4 --models a-vae-grid av-vae

Without a file, the recording is a synthetic talking face in pink noise. All models are compared with the same
noise, fitted with the first model, which favours that model. Two scores are computed from draws of z: the log
evidence log p(x_n | v_n) of a frame by importance sampling, which depends on the prior given the lips, and
the log density of a bin given the rest of its frame by `az.compare`, which hardly does; its bins are far
enough apart to be independent. Hidden lips are the control. Few frames differ greatly, so read differences
against their standard errors; a Pareto k above 0.7 in most frames means that the evidence is only a rough
estimate: raise --warmup, --draws and --samples. Bins under loud noise have such a k, too, and do no harm.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import arviz as az
import torch

import avse
from avse.data.audio import read_audio
from avse.data.corpora.synthetic.demo import talking_face
from avse.data.errors import InputError
from avse.data.lips import read_lips
from avse.evaluation.posterior.evidence import compare_scores, frame_evidence
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
    algorithm, _ = algorithm_named("auto", first.pair.algorithm)
    fitted = algorithm(first.speech, first.guide, power, first.visual, generator)
    estimate = fitted.wiener_gain.square() * power
    hops = -(-first.pair.stft.window_length // first.pair.stft.hop_length)
    apart = {"frame": slice(None, None, hops), "frequency": slice(None, None, 2)}

    evidence, posteriors = {}, {}
    print(f"{'model':<32} {'R-hat of the speech level':>26} {'frames k > 0.7':>16}")
    inputs = {name: own.visual for name, own in recordings.items()}
    seen = {name: visual for name, visual in inputs.items() if visual is not None}
    inputs |= {f"{name}, lips hidden": torch.zeros_like(visual) for name, visual in seen.items()}
    for name, visual in inputs.items():
        own = recordings[name.split(",")[0]]
        log_joint = closure(NoisySpeech(own.speech, fitted.noise), power=power, visual=visual)
        with torch.no_grad(), cached_embeddings():
            encoded = torch.stack([own.guide.posterior(p, visual).mean for p in (estimate, power)])
            start = encoded.repeat(2, 1, 1) + 0.1 * torch.randn(4, *encoded.shape[1:], generator=generator)
            chain = Chain(HMC(0.1, leapfrog_steps=8), args.warmup + args.draws, args.warmup, 0.7)
            z = chain(log_joint, ChainState(start), generator)[0].z.transpose(0, 1)
            frames = frame_evidence(log_joint, z, generator, samples=args.samples)
        evidence[name], poor = frames.log_evidence, (frames.pareto_k > 0.7).double().mean()
        drawn = replace(fitted, z=z, step_size=None, energy=None, diverged=None)
        idata = drawn.to_inference_data(own.speech, power, visual, pointwise="bin")
        rhat = float(az.rhat(idata, var_names=["speech_level"])["speech_level"])
        idata["log_likelihood"] = idata["log_likelihood"].isel(apart)
        posteriors[name] = az.loo(idata, pointwise=True, reff=1.0)
        print(f"{name:<32} {rhat:26.3f} {float(poor):16.1%}")
    print(f"\n{'log evidence, nats per frame':<32} {'mean':>10} {'best minus model':>24}")
    for name, result in compare_scores(evidence).items():
        difference = f"{result.difference:.1f} ± {result.standard_error:.1f}"
        print(f"{name:<32} {result.score:10.1f} {difference:>24}")
    print("\nPSIS-LOO, nats")
    print(az.compare(posteriors).to_string())


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
