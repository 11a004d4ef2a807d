"""Enhance a recording in ten lines, and look at what the model thinks.

    python examples/enhance_a_recording.py noisy.wav --out enhanced.wav --figure enhanced.png

Without a file, a synthetic voice in white noise is enhanced. The lesson: a trained pair (model and guide) and
an algorithm are all there is; either can be swapped. `enhancement.posterior` keeps the draws of the latent
variables, the fitted noise and the Wiener gain.
"""

import argparse
from pathlib import Path

import librosa
import numpy as np

import avse
from avse.data.corpora.synthetic import utterance_speech
from avse.data.mixing import mix, white_noise
from avse.evaluation.figures import write_figure


def noisy_voice(seed: int) -> tuple[np.ndarray, int]:
    """A synthetic voice in white noise at 0 dB: samples (T,) and rate in Hz."""
    speech = utterance_speech(seed, speaker=0, index=0)
    noise = white_noise(len(speech.samples), np.random.default_rng(seed))
    mixture, _ = mix(speech.samples, noise, level_db=0.0)
    return mixture, speech.sample_rate


def main(args: argparse.Namespace) -> None:
    if args.noisy is None:
        samples, rate = noisy_voice(args.seed)
    else:
        samples, rate = librosa.load(args.noisy, sr=None, mono=False)  # (T,) or (C, T)

    pair = avse.load(args.model)
    enhancement = avse.enhance(samples, rate, model=pair, algorithm=args.algorithm, seed=args.seed)

    posterior = enhancement.posterior
    print(f"draws of z (chains, draws, channels, frames, latents): {tuple(posterior.z.shape)}")
    print(f"accepted {posterior.acceptance.mean():.0%} of the final moves")
    print(f"cost of the noise model: {posterior.costs[0]:.3f} -> {posterior.costs[-1]:.3f} nats a bin")
    print(f"took {enhancement.report['real_time_factor']:.2f} of the recording's duration")

    if args.out is not None:
        enhancement.save(args.out)
    if args.figure is not None:
        write_figure(args.figure, enhancement.figure(title="enhance a recording"))


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    result.add_argument("noisy", type=Path, nargs="?")
    result.add_argument("--model", default="a-vae")
    result.add_argument("--algorithm", default="auto")
    result.add_argument("--seed", type=int, default=0)
    result.add_argument("--out", type=Path)
    result.add_argument("--figure", type=Path)
    return result


if __name__ == "__main__":
    main(parser().parse_args())
