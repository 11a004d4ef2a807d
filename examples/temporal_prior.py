"""What was said under the noise? The posterior of z in a loud stretch, with and without a prior over time.

    python examples/temporal_prior.py --figure prior.png

A burst of noise covers a voice. The A-VAE takes its frames one by one: where noise hides a frame, p(z | x)
is little more than N(0, I), any speech at all. The second model has the same decoder and a transition
z_n ~ N(B z_{n-1}, diag q), fitted by least squares to the encoder's z of other sentences. The lesson: frames
beside the burst tell what is likely inside, which narrows the intervals and moves them to the truth. Kernels
for single frames refuse such a model; `ByCoupling` moves every second frame given the others.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import avse
from avse.data.audio import resample
from avse.data.corpora.synthetic import utterance_speech
from avse.evaluation.figures import Intervals, intervals_figure, level_db, write_figure
from avse.inference.mcmc.chain import Chain, ChainState
from avse.inference.mcmc.coupled import ByCoupling
from avse.inference.mcmc.kernels import MALA
from avse.inference.mcmc.log_density import closure
from avse.models.deep_kalman_filter import DeepKalmanFilter
from avse.models.noisy import ConstantNoise, NoisySpeech
from avse.models.state_space import LinearTransition
from avse.zoo.pair import SpeechPair


def spectrum(index: int, pair: SpeechPair) -> Tensor:
    """Spectrum (N, F) of a sentence of a synthetic voice at the level of the models."""
    speech = utterance_speech(seed=0, speaker=0, index=index)
    samples = resample(speech.samples[:, None], speech.sample_rate, pair.stft.sample_rate)[:, 0]
    found: Tensor = pair.config.front_end.analysis(torch.from_numpy(samples).float())[0]
    return found


def linear_transition(paths: list[Tensor]) -> LinearTransition:
    """B and q of z_n ~ N(B z_{n-1}, diag q) by least squares, from paths of z (N, L)."""
    before, after = (torch.cat([z[part] for z in paths]) for part in (slice(-1), slice(1, None)))
    B = torch.linalg.lstsq(before, after).solution.mT
    ones = torch.ones(B.shape[0])
    return LinearTransition(0 * ones, ones, B, (after - before @ B.mT).square().mean(0) + 1e-3)


def main(args: argparse.Namespace) -> None:
    pair = avse.load("a-vae")
    torch.manual_seed(args.seed)
    generator = torch.Generator().manual_seed(args.seed)
    paths = [
        pair.guide.posterior(spectrum(index, pair).abs().square()).sample()
        for index in range(1, args.sentences)
    ]
    models = {
        "single frames": pair.model,
        "prior over time": DeepKalmanFilter(linear_transition(paths), pair.model.decoder),
    }
    clean = spectrum(0, pair)[: args.frames]
    frames = torch.arange(len(clean))
    hidden = (frames - len(clean) // 2).abs() <= args.burst // 2
    variance = torch.where(hidden, args.loud, 1e-3)[:, None].expand(clean.shape)
    noise = (variance / 2).sqrt() * torch.randn(2, *clean.shape, generator=generator)
    power = (clean + torch.complex(*noise)).abs().square()
    truth, times = level_db(clean.abs().square().mean(-1)), pair.stft.frame_times(len(clean))
    start = torch.zeros(2, len(clean), 32)  # two chains
    panels = []
    for title, speech in models.items():
        noisy = NoisySpeech(speech, ConstantNoise(torch.ones(len(clean)), variance))
        chain = Chain(ByCoupling(MALA(0.1)), 2 * args.draws, args.draws, target_acceptance=0.57)
        drawn, _ = chain(closure(noisy, power=power), ChainState(start), generator)
        z = drawn.z.flatten(0, 1)[:: max(1, len(drawn.z) // 25)]
        levels = level_db(torch.stack([speech.decoder(own).exp().mean(-1) for own in z]))
        low, middle, high = np.quantile(levels, [0.05, 0.5, 0.95], axis=0)
        error = np.sqrt(np.mean((middle - truth)[hidden] ** 2))
        width, held = np.mean((high - low)[hidden]), np.mean(((low <= truth) & (truth <= high))[hidden])
        print(f"{title}: under the noise, level off by {error:.1f} dB,", end=" ")
        print(f"90 % intervals {width:.1f} dB wide, which hold {held:.0%} of the truth")
        panels.append(Intervals("time (s)", times, low, middle, high, truth, title))
    if args.figure is not None:
        write_figure(args.figure, intervals_figure(panels, "level of the speech (dB)"))


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    result.add_argument("--sentences", type=int, default=8, help="of which all but one give the prior")
    result.add_argument("--frames", type=int, default=40)
    result.add_argument("--burst", type=int, default=12, help="frames under loud noise")
    result.add_argument("--loud", type=float, default=100.0, help="variance of the noise; speech has 1")
    result.add_argument("--draws", type=int, default=120, help="after as many of warm-up")
    result.add_argument("--seed", type=int, default=0)
    result.add_argument("--figure", type=Path)
    return result


if __name__ == "__main__":
    main(parser().parse_args())
