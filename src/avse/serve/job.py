"""One press of the button: from a recording and choices to sounds, pictures and sentences.

    source -> noisy samples, lips -> `avse.enhance` -> sounds (WAV), pictures (SVG), facts and notes

Nothing here knows of a server: `run_job` is a function of its request.
"""

import io
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile as sf
import torch
from numpy.typing import NDArray

from avse.data.audio import match_length, resample
from avse.data.corpora.synthetic.demo import talking_face
from avse.data.drawing import separated
from avse.data.errors import InputError
from avse.data.lips import read_lips
from avse.data.lips.video import has_pictures
from avse.enhancement import Enhancement, enhance_with
from avse.evaluation.metrics import si_sdr
from avse.evaluation.posterior.credible import draw_speech
from avse.models.networks.lips import cached_embeddings
from avse.models.noisy import NoisySpeech
from avse.recording import Loader
from avse.serve.choices import ALGORITHMS, AUTO, MODELS, OWN, PRIORS, TWO_NORMALS_ALPHA, check_choice
from avse.serve.pictures import NARROW, WIDE, alpha_and_lips, spectrograms, uncertainty
from avse.serve.priors import with_prior
from avse.serve.uploads import Source, check_pictures, read_sound, without_paths
from avse.zoo import load as load_pair
from avse.zoo.pair import SpeechPair

SAMPLES = 3
"""Waveforms drawn from the posterior."""
PEAK = 0.99
"""Largest sample of all sounds of a result, which are scaled together where one is beyond it."""

Progress = Callable[[str, float], None]
"""Told what is being done and the fraction of the work that is done; may raise to stop the job."""


@dataclass(frozen=True)
class Request:
    """What a visitor asks for.

    Attributes:
        upload: a sound file or a video; None for the synthetic talking mouth.
        model: a name in `avse.serve.choices.MODELS`.
        algorithm: one of those that are offered with it.
        prior: one of those that are offered with it.
        seed: of all random draws.
    """

    upload: Path | None = None
    model: str = AUTO
    algorithm: str = AUTO
    prior: str = OWN
    seed: int = 0


class Sound(NamedTuple):
    """A sound with a player.

    Attributes:
        name: of the file, without its suffix.
        title: for people.
        wav: a file of 16-bit PCM.
    """

    name: str
    title: str
    wav: bytes


class Picture(NamedTuple):
    """A picture of the result.

    Attributes:
        name: what it shows.
        text: what can be seen in it, for those who do not see it.
        image: SVG, a data URI.
        narrow: the same for narrow screens; empty where the one serves both.
    """

    name: str
    text: str
    image: str
    narrow: str = ""


@dataclass(frozen=True)
class Result:
    """What the page shows.

    Attributes:
        sounds: by name: noisy, enhanced, noise, sample-1 to sample-3, and clean where it is known.
        pictures: by name: noisy, enhanced, noise, uncertainty, and alpha where there are lips or an alpha.
        facts: what was run, name -> value.
        notes: on the recording and the result, for people.
        alpha: whether the picture "alpha" shows probabilities, and not only lips.
        exact_samples: whether the samples are of the model's posterior, and not of normals with its moments.
    """

    sounds: dict[str, Sound]
    pictures: dict[str, Picture]
    facts: dict[str, str]
    notes: list[str]
    alpha: bool
    exact_samples: bool


def run_job(
    request: Request, progress: Progress = lambda doing, fraction: None, load: Loader = load_pair
) -> Result:
    """Enhance what is asked for and show the result.

    Args:
        request: what to run.
        progress: see `Progress`.
        load: name -> pair, which may keep those that it has read.

    Raises:
        InputError: the choices do not go together, or the recording cannot be used; the message holds no
            folder of this machine.
    """
    check_choice(request.model, request.algorithm, request.prior)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", UserWarning)
        try:
            result = _run(request, progress, load)
        except InputError as error:
            raise InputError(without_paths(error, request.upload)) from None
    told = [without_paths(each.message, request.upload) for each in caught if each.category is UserWarning]
    return replace(result, notes=[*dict.fromkeys([*told, *result.notes])])


def _run(request: Request, progress: Progress, load: Loader) -> Result:
    progress("reading the recording", 0.0)
    pair, source = _pair_and_source(request, load, progress)
    progress("enhancing", 0.2)
    found = enhance_with(
        source.samples,
        source.sample_rate,
        video=source.lips,
        model=pair,
        algorithm=request.algorithm,
        seed=request.seed,
        load=load,
        progress=lambda fraction: progress("enhancing", 0.2 + 0.5 * fraction),
    )
    progress("drawing samples of the speech", 0.7)
    samples, exact = posterior_samples(found, len(source.samples), request.seed)
    progress("drawing the pictures", 0.8)
    alpha = found.posterior.responsibilities
    names = TWO_NORMALS_ALPHA if request.prior == "two-normals" else MODELS[found.report["model"]].alpha
    return Result(
        sounds=_sounds(source, found, samples),
        pictures=_pictures(source, found, names if len(alpha) > 1 else (), progress),
        facts=_facts(request, source, found),
        notes=[*source.notes, *(without_paths(note, request.upload) for note in found.report["notes"])],
        alpha=len(alpha) > 1,
        exact_samples=exact,
    )


def _pair_and_source(request: Request, load: Loader, progress: Progress) -> tuple[str | SpeechPair, Source]:
    """The pair and the recording; "auto" is the pair of the synthetic mouth, or left to `avse.enhance`."""
    if request.upload is None:
        face = talking_face(request.seed)
        name = "av-vae-synthetic" if request.model == AUTO else request.model
        pair = with_prior(load(name), request.prior)
        lips = None if pair.config.lips is None else face.lips
        return pair, Source(face.noisy, face.sample_rate, lips, face.clean)
    source = read_sound(request.upload)
    if request.model == AUTO:
        return AUTO, _with_lips(request.upload, source, progress, needed=False)
    pair = with_prior(load(request.model), request.prior)
    return pair, source if pair.config.lips is None else _with_lips(
        request.upload, source, progress, needed=True
    )


def _with_lips(upload: Path, source: Source, progress: Progress, needed: bool) -> Source:
    """The source with the lips of its video; without, if they are not needed and none are found."""
    if not has_pictures(upload):
        return source
    check_pictures(upload)
    progress("finding the lips", 0.05)
    try:
        return source._replace(lips=read_lips(upload))
    except InputError as error:
        if needed:
            raise
        told = without_paths(error, upload)
        return source._replace(notes=(*source.notes, f"the sound alone was used ({told})"))


def posterior_samples(found: Enhancement, length: int, seed: int) -> tuple[NDArray[np.floating], bool]:
    """Waveforms of the speech drawn from the posterior, (SAMPLES, T), at the rate of the recording.

    Where lips were weighted, the draws of z are not of the model's posterior. Then every bin is drawn from a
    complex normal with its posterior mean and variance.

    Args:
        found: an enhancement of one channel in one segment.
        length: T.
        seed: of the draws.

    Returns:
        The waveforms, and whether they are draws of the model's posterior.
    """
    generator = torch.Generator(found.spectrum.device).manual_seed(seed)
    posterior, spectrum = found.posterior, found.spectrum[0]
    exact = posterior.visual_weight is None
    drawn = spectrum.new_zeros(SAMPLES, *spectrum.shape)
    if exact:
        model, pooled = NoisySpeech(found.model, posterior.noise), posterior.z.flatten(0, 1)
        observed = (found.scale[..., None] * found.spectrum)[..., : posterior.wiener_gain.shape[-1]]
        chosen = torch.randperm(len(pooled), generator=generator, device=generator.device)[:SAMPLES]
        with torch.no_grad(), cached_embeddings():
            for own, index in zip(drawn, chosen, strict=True):
                speech = draw_speech(model, pooled[index], observed, found.visual, generator)
                own[:, : speech.shape[-1]] = speech[0] / found.scale[0]
    else:
        noise = torch.randn(drawn.shape, generator=generator, dtype=drawn.dtype, device=drawn.device)
        drawn = found.wiener_gain[0] * spectrum + found.speech_std[0] * noise
    rate = found.stft.sample_rate
    waveforms = found.stft.synthesis(drawn, -(-length * rate // found.sample_rate)).cpu().numpy()
    return np.stack(
        [match_length(resample(each, rate, found.sample_rate), length) for each in waveforms]
    ), exact


def _sounds(source: Source, found: Enhancement, samples: NDArray[np.floating]) -> dict[str, Sound]:
    """All sounds at one scale, so that their loudness can be compared."""
    titles = {"noisy": "noisy recording", "enhanced": "enhanced speech", "noise": "removed noise"}
    waveforms = {"noisy": source.samples, "enhanced": found.speech, "noise": found.noise}
    for number, sample in enumerate(samples, start=1):
        titles[f"sample-{number}"] = f"posterior sample {number}"
        waveforms[f"sample-{number}"] = sample
    if source.clean is not None:
        titles["clean"], waveforms["clean"] = "clean speech", source.clean
    peak = max(float(np.abs(each).max()) for each in waveforms.values())
    scale = min(1.0, PEAK / max(peak, 1e-12))
    return {
        name: Sound(name, titles[name], _wav(scale * each, source.sample_rate))
        for name, each in waveforms.items()
    }


def _wav(samples: NDArray[np.floating], sample_rate: int) -> bytes:
    written = io.BytesIO()
    sf.write(written, samples, sample_rate, "PCM_16", format="WAV")
    return written.getvalue()


def _pictures(
    source: Source, found: Enhancement, names: Sequence[str], progress: Progress
) -> dict[str, Picture]:
    spectrum, gain, stft = found.spectrum[0].cpu(), found.wiener_gain[0].cpu(), found.stft
    words = {"noisy": "the noisy recording", "enhanced": "the enhanced speech", "noise": "the removed noise"}
    drawn = spectrograms(dict(zip(words, separated(spectrum, gain).values(), strict=True)), stft)
    pictures = {
        name: Picture(name, f"Spectrogram of {words[name]}: level in dB over time and frequency.", image)
        for name, image in drawn.items()
    }
    progress("drawing the pictures", 0.9)
    pictures["uncertainty"] = Picture(
        "uncertainty",
        "Posterior standard deviation of the speech relative to its mean, in dB over time and frequency.",
        uncertainty(gain * spectrum, found.speech_std[0].cpu(), stft),
    )
    if source.lips is not None or names:
        alpha = found.posterior.responsibilities[:, 0].cpu() if names else None
        times = stft.frame_times(len(spectrum))
        shown = ("the lips" if source.lips is not None else "", "the probability of alpha" if names else "")
        pictures["alpha"] = Picture(
            "alpha",
            f"{' and '.join(filter(None, shown)).capitalize()} over time.",
            *(alpha_and_lips(times, source.lips, alpha, names, size) for size in (WIDE, NARROW)),
        )
    return pictures


def _facts(request: Request, source: Source, found: Enhancement) -> dict[str, str]:
    """What was run and how long it took; with the clean speech, how much was gained."""
    report = found.report
    algorithm = report["algorithm"]
    facts = {
        "model": f"{report['model']}",
        "algorithm": f"{algorithm} ({ALGORITHMS[algorithm]})" if algorithm in ALGORITHMS else algorithm,
        "prior of z": PRIORS[request.prior],
        "recording": f"{len(source.samples) / source.sample_rate:.1f} s at {source.sample_rate} Hz",
        "inference": f"{report['seconds']:.1f} s",
    }
    if source.clean is not None:
        before, after = (
            si_sdr(source.clean, estimate, source.sample_rate) for estimate in (source.samples, found.speech)
        )
        facts["SI-SDR"] = f"{before:.1f} dB before, {after:.1f} dB after"
    return facts
