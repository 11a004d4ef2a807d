"""One call from a noisy recording to an enhanced one.

    recording -> segments -> posterior of each -> averaged Wiener filter -> samples

Below the high-pass of a pair nothing is known of speech and noise. What is there is taken for noise and left
out, but for recordings that are nearly clean (`clean_share`), which keep it.

Channels are enhanced independently, as a batch. Recordings longer than a segment are enhanced in overlapping
segments whose filters are cross-faded, and the noise of each segment is fitted by itself.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from avse.checks import checked_device, checked_seed
from avse.data.audio import match_length, read_audio, resample, write_audio
from avse.data.errors import InputError
from avse.data.lips.files import LipsSource
from avse.data.lips.front_end import LipTrack
from avse.data.stft import STFT
from avse.inference.algorithm import Algorithm
from avse.inference.inference_data import Pointwise, Tree
from avse.inference.posterior import Posterior, join_channels
from avse.inference.presets import algorithm_named
from avse.inference.wiener import clean_share
from avse.models.base import SpeechModel
from avse.recording import Loader, Recording, pair_and_lips
from avse.report import enhancement_report
from avse.zoo.pair import SpeechPair

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True, repr=False)
class Enhancement:
    """An enhanced recording of T samples and C channels; N frames and F bins inside.

    Attributes:
        speech: shape and rate of the input; gains below the algorithm's floor were lifted to it.
        noise: what was taken away, input minus speech.
        sample_rate: Hz.
        spectrum: STFT of the mixture at the model's rate, complex (C, N, F), in the input's units.
        wiener_gain: E[s | x] / x, (C, N, F).
        speech_std: posterior standard deviation of the speech STFT, (C, N, F), in the input's units.
        stft: of the three above.
        scale: what the samples were multiplied by before inference, (C, 1): the power that the posteriors
            were given is |scale spectrum|^2; for linked channels (1, 1), and the mean of it over channels.
        posteriors: one for each segment of the recording.
        segments: the frames of each segment.
        model: the speech model that was used, over the F observed bins.
        visual: what it was given of the lips, (N, D), or None.
        lips: what the model was given of the lips at each frame, or None.
        report: what was run, with which seeds and versions, and how it went; plain values for JSON.
    """

    speech: NDArray[np.floating[Any]]
    noise: NDArray[np.floating[Any]]
    sample_rate: int
    spectrum: Tensor
    wiener_gain: Tensor
    speech_std: Tensor
    stft: STFT
    scale: Tensor
    posteriors: tuple[Posterior, ...]
    segments: tuple[slice, ...]
    model: SpeechModel
    visual: Tensor | None
    lips: LipTrack | None
    report: dict[str, Any]

    @property
    def posterior(self) -> Posterior:
        """The posterior of a recording that fits one segment.

        Raises:
            ValueError: there are several segments, each with a posterior of its own; see `posteriors`.
        """
        if len(self.posteriors) > 1:
            raise ValueError(
                f"this recording was enhanced in {len(self.posteriors)} segments: use posteriors[k] of one"
            )
        return self.posteriors[0]

    def __repr__(self) -> str:
        seconds = max(self.noise.shape) / self.sample_rate
        return (
            f"Enhancement({seconds:.2f} s at {self.sample_rate} Hz, {len(self.spectrum)} channels, "
            f"model {self.report['model']!r}, algorithm {self.report['algorithm']!r})"
        )

    def save(self, path: str | Path) -> None:
        """Write the enhanced speech to a .wav, .flac or .ogg file.

        Raises:
            InputError: the file cannot be written.
        """
        write_audio(path, _time_first(self.speech), self.sample_rate)

    @property
    def gain(self) -> Tensor:
        """Former name of `wiener_gain`."""
        return self.wiener_gain

    @property
    def deviation(self) -> Tensor:
        """Former name of `speech_std`."""
        return self.speech_std

    def to_inference_data(
        self,
        segment: int | None = None,
        *,
        channel: int = 0,
        pointwise: Pointwise = "frame",
        predictive_draws: int = 50,
        seed: int = 0,
    ) -> Tree:
        """The posterior of one channel as ArviZ's InferenceData, frames in s and frequencies in Hz.

            found = avse.enhance(x, 16000, algorithm="mcmc")
            az.summary(found.to_inference_data(), var_names=["speech_level"])

        The presets of MCEM average few draws of short chains; convergence can be judged of those of "mcmc".
        See `Posterior.to_inference_data` for the other arguments.

        Args:
            segment: of a recording that was enhanced in several, whose times then start at the segment's.
            channel: of those that were not linked.

        Raises:
            InputError: there is no such segment or channel, or several segments and none is named.
        """
        if segment is None and len(self.posteriors) > 1:
            raise InputError(
                f"this recording was enhanced in {len(self.posteriors)} segments: name one, such as segment=0"
            )
        index = segment or 0
        if not 0 <= index < len(self.posteriors):
            raise InputError(f"segment {index} of {len(self.posteriors)}: they are counted from 0")
        posterior = self.posteriors[index]
        channels, _, bins = posterior.wiener_gain.shape
        if not 0 <= channel < channels:
            raise InputError(f"channel {channel} of {channels}: they are counted from 0")
        power = (self.scale.unsqueeze(-1) * self.spectrum[:, self.segments[index], :bins]).abs().square()
        return posterior.to_inference_data(
            self.model,
            power.mean(0, keepdim=True) if channels < len(power) else power,
            None if self.visual is None else self.visual[self.segments[index]],
            channel=channel,
            stft=self.stft,
            pointwise=pointwise,
            predictive_draws=predictive_draws,
            seed=seed,
        )

    def figure(self, channel: int = 0, title: str = "", seconds: float | None = None) -> "Figure":
        """Spectrograms of mixture, speech and noise, the lips, and the objective of the first segment.

        Args:
            channel: of the recording.
            title: of the figure.
            seconds: to draw, from the start; by default all.
        """
        from avse.evaluation.figures import enhancement_figure

        part = slice(None if seconds is None else max(1, round(seconds * self.stft.frame_rate)))
        return enhancement_figure(
            self.spectrum[channel, part],
            self.wiener_gain[channel, part],
            self.stft,
            self.posteriors[0].costs,
            lips=None if self.lips is None else self.lips.frames(part),
            title=title,
        )

    def plot_spectrograms(
        self, axes: "Sequence[Axes] | None" = None, *, channel: int = 0
    ) -> "Sequence[Axes]":
        """Draw spectrograms of mixture, speech and noise on one scale in dB; returns the axes.

        Args:
            axes: three; by default those of a new figure.
            channel: of the recording.

        Raises:
            InputError: another number of axes.
        """
        from avse.data.drawing import draw_spectrograms, separated

        spectra = separated(self.spectrum[channel], self.wiener_gain[channel])
        if axes is None:
            from matplotlib import pyplot

            axes = list(pyplot.subplots(1, len(spectra), figsize=(12.6, 3.6), layout="constrained")[1])
        if len(axes) != len(spectra):
            raise InputError(f"{len(axes)} axes: give {len(spectra)}, for {', '.join(spectra)}")
        draw_spectrograms(axes, spectra, self.stft)
        return axes

    def plot_wiener_gain(self, axes: "Axes | None" = None, *, channel: int = 0) -> "Axes":
        """Draw the Wiener gain, 0 to 1, on new axes if none are given; returns the axes."""
        from avse.data.drawing import axes_or_new, draw_gain

        axes = axes_or_new(axes)
        draw_gain(axes, self.wiener_gain[channel].cpu().numpy(), self.stft)
        return axes

    def plot_uncertainty(self, axes: "Axes | None" = None, *, channel: int = 0) -> "Axes":
        """Draw the posterior standard deviation over the mean of the speech STFT in dB; returns the axes."""
        from avse.data.drawing import axes_or_new, draw_uncertainty

        axes = axes_or_new(axes)
        mean = (self.wiener_gain[channel] * self.spectrum[channel]).abs()
        draw_uncertainty(axes, mean.cpu().numpy(), self.speech_std[channel].cpu().numpy(), self.stft)
        return axes

    def plot_cost(self, axes: "Axes | None" = None, *, segment: int = 0) -> "Axes":
        """Draw the cost of a segment before every iteration; returns the axes, new ones if none are given."""
        return self.posteriors[segment].plot_cost(axes)

    def plot_lips(self, axes: "Axes | None" = None) -> "Axes":
        """Draw the lips as the model received them, on new axes if none are given; returns the axes.

        Raises:
            InputError: the sound alone was used.
        """
        if self.lips is None:
            raise InputError("no lips were used for this recording")
        return self.lips.plot_strip(axes, duration=self.spectrum.shape[1] / self.stft.frame_rate)

    def plot_trace(
        self,
        name: str = "speech_level",
        at: Mapping[str, Any] | None = None,
        axes: Any = None,
        *,
        segment: int | None = None,
        channel: int = 0,
    ) -> Any:
        """Density and trace of one number of every draw, by `az.plot_trace`; see `Posterior.plot_trace`."""
        from avse.inference.drawing import plot_trace, scalar_at

        tree = self.to_inference_data(segment, channel=channel)
        return plot_trace(tree, name, scalar_at(tree, name, at), axes)

    def plot_rank(
        self,
        name: str = "speech_level",
        at: Mapping[str, Any] | None = None,
        axes: Any = None,
        *,
        segment: int | None = None,
        channel: int = 0,
    ) -> Any:
        """Ranks of one number among the draws of all chains, by `az.plot_rank`; see `Posterior.plot_rank`."""
        from avse.inference.drawing import plot_rank, scalar_at

        tree = self.to_inference_data(segment, channel=channel)
        return plot_rank(tree, name, scalar_at(tree, name, at), axes)

    def _repr_html_(self) -> str:
        """For a notebook: players of noisy, speech and noise, the figure, and what was run.

        Sounds and pictures of long recordings are cut, see `avse.data.notebook`.
        """
        from avse.data import notebook

        speech, noise = (
            _time_first(np.asarray(own)).reshape(max(own.shape), -1) for own in (self.speech, self.noise)
        )
        sounds = {"noisy": speech + noise, "enhanced speech": speech, "removed noise": noise}
        seconds, limit = len(speech) / self.sample_rate, notebook.MAX_SECONDS
        shown = f", the first {limit:g} s of {seconds:.1f} s" if seconds > limit else ""
        alt = (
            f"Spectrograms of the noisy recording, the enhanced speech and the removed noise{shown}; "
            f"cost over {len(self.posteriors[0].costs)} iterations."
        )
        report = self.report
        run = {
            "model": report["model"],
            "algorithm": report["algorithm"],
            "recording": f"{seconds:.2f} s, {len(self.spectrum)} channels at {self.sample_rate} Hz",
            "segments": len(self.posteriors),
            "seed": report["seed"],
            "computed in": f"{report['seconds']:.1f} s on {report['device']}",
            **{f"note {number}": note for number, note in enumerate(report["notes"], 1)},
        }
        settings = {
            "settings": report["algorithm_settings"],
            "requested": report["requested"],
            "versions": report["versions"],
            "SHA-256 of the weights": report["weights_sha256"],
        }
        return notebook.section(
            "Enhancement",
            notebook.players(sounds, self.sample_rate),
            notebook.picture(self.figure(seconds=limit if shown else None), alt),
            notebook.facts(run, "what was run"),
            notebook.folded("settings and versions", notebook.facts(settings, "settings and versions")),
        )


def _time_first(samples: NDArray[np.floating]) -> NDArray[np.floating]:
    """Samples (T,), (T, C) or (C, T), of which time is the longer dimension, as (T,) or (T, C)."""
    return samples.T if samples.ndim == 2 and samples.shape[0] <= samples.shape[1] else samples


def enhance(
    x: NDArray[Any] | Tensor | str | Path,
    sample_rate: int | None = None,
    *,
    video: LipsSource | None = None,
    fps: float | None = None,
    video_offset: float = 0.0,
    model: str | Path | SpeechPair = "auto",
    algorithm: str | Algorithm = "auto",
    seed: int = 0,
    link_channels: bool | None = None,
    device: str | None = None,
    progress: Callable[[float], None] = lambda fraction: None,
) -> Enhancement:
    """Enhance a noisy recording.

    Args:
        x: samples (T,), (T, C) or (C, T), an array, a tensor or a list: floats (full scale +-1 by custom, any
            scale up to 1e30 works), int16 or int32; or a sound file, (T,) if it has one channel. The longer
            dimension is time, and the speech comes back in the same layout.
        sample_rate: Hz, needed for samples. Speech above half the model's rate is not modelled and is
            removed.
        video: the speaker's face: a video file; or lips that are cropped already: a file, an array
            (T_v, 67, 67), or `Lips`. Its clock is that of the samples.
        fps: video frames a second of lips that come without times.
        video_offset: s by which the video is late: what is heard at t is seen at t + video_offset.
        model: name in the zoo, folder of a saved pair, or a loaded pair; "auto" takes vae-mm where the video
            shows lips, else a-vae.
        algorithm: a name in `avse.inference.presets.PRESETS` or an algorithm object; "auto" takes the one
            that the pair was saved with.
        seed: of every random draw. The same seed in the same process, with the same number of threads, gives
            the same output; other thread counts and CPUs agree to within rounding of the sampled chains.
        link_channels: one filter for all channels, from their mean power, which keeps the stereo image; else
            each channel has its own, with the same random draws. By default two channels are linked.
        device: where to compute, "cpu" or "cuda"; by default that of a loaded pair, else "cpu". A loaded pair
            is never moved; a copy of it is.
        progress: told the fraction of the work that is done.

    Raises:
        InputError: samples that are empty, not finite, of another shape, or integers of a type without a
            usual full scale; a rate, seed or device that cannot be; an unknown model or algorithm; a video
            without a face, or none for a model that needs lips.
    """
    return enhance_with(
        x,
        sample_rate,
        video=video,
        fps=fps,
        video_offset=video_offset,
        model=model,
        algorithm=algorithm,
        seed=seed,
        link_channels=link_channels,
        device=device,
        progress=progress,
    )


@torch.inference_mode(False)
def enhance_with(
    x: NDArray[Any] | Tensor | str | Path,
    sample_rate: int | None = None,
    *,
    video: LipsSource | None = None,
    fps: float | None = None,
    video_offset: float = 0.0,
    model: str | Path | SpeechPair = "auto",
    algorithm: str | Algorithm = "auto",
    seed: int = 0,
    link_channels: bool | None = None,
    device: str | None = None,
    progress: Callable[[float], None] = lambda fraction: None,
    load: Loader | None = None,
) -> Enhancement:
    """As `enhance`, with pairs from `load`, which may keep those that it has read."""
    start = time.perf_counter()
    seed = checked_seed(seed)
    if device is not None:
        checked_device(device)
    if not isinstance(algorithm, str) and not callable(algorithm):
        raise InputError(f"algorithm {algorithm!r}: give a name or an algorithm object")
    if isinstance(x, str | Path):
        audio = read_audio(x)
        mono = audio.samples.shape[1] == 1
        x, sample_rate = audio.samples[:, 0] if mono else audio.samples, audio.sample_rate
    if sample_rate is None:
        raise InputError("samples without a sample rate: give sample_rate in Hz")
    pair, lips = pair_and_lips(model, video, fps, video_offset, load)
    pair = pair.on(device)
    infer, algorithm_name = algorithm_named(algorithm, pair.algorithm)
    recording = Recording.prepare(x, sample_rate, pair, lips, video_offset)
    channels = len(recording.signal)
    linked = channels == 2 if link_channels is None else link_channels and channels > 1

    spectrum, pieces, scale = recording.spectrum, recording.segments, recording.scale
    level = recording.linked_scale if linked else scale  # of the powers that the posteriors are given
    gain, variance = torch.zeros_like(spectrum.real), torch.zeros_like(spectrum.real)
    # Common random numbers: equal channels have equal filters.
    generators = [torch.Generator(pair.device).manual_seed(seed) for _ in range(1 if linked else channels)]
    posteriors = []
    for index, segment in enumerate(pieces):
        parts = []
        for channel, power in enumerate(recording.segment_powers(segment, linked)):

            def report_part(fraction: float, done: int = index * len(generators) + channel) -> None:
                progress((done + fraction) / (len(pieces) * len(generators)))

            visual = recording.segment_visual(segment)
            parts.append(
                infer(recording.speech, recording.guide, power, visual, generators[channel], report_part)
            )
        posterior = join_channels(parts)
        weight = segment.weight.to(gain)[:, None]
        gain[..., segment.frames, : recording.bins] += weight * posterior.wiener_gain
        variance[..., segment.frames, : recording.bins] += weight * posterior.variance
        posteriors.append(posterior)

    power = spectrum.abs().square()
    rejected = pair.config.front_end.rejected().to(gain)
    one_for_all = (gain.flatten(0, 1), power.flatten(0, 1)) if linked else (gain, power)
    low = clean_share(*one_for_all, rejected)
    del power, one_for_all
    kept = low.reshape(-1, 1, 1) * rejected
    filtered = gain.clamp_min(posteriors[0].gain_floor).add_(kept).mul(spectrum)
    estimate = recording.stft.synthesis(filtered, recording.signal.shape[-1]) / (scale * recording.unit)
    del filtered
    samples = recording.samples
    at_rate = resample(estimate.T.cpu().numpy(), recording.stft.sample_rate, recording.sample_rate)
    at_rate = match_length(at_rate, len(samples)).reshape(samples.shape).astype(samples.dtype)
    enhanced = at_rate * samples.dtype.type(recording.unit)
    noise = samples - enhanced
    if recording.channels_first:
        enhanced, noise = enhanced.T, noise.T
    report = enhancement_report(
        recording,
        posteriors,
        infer,
        algorithm_name,
        requested={"model": requested_name(model), "algorithm": requested_name(algorithm)},
        video_given=video is not None,
        video_offset=video_offset,
        linked=linked,
        low_frequencies=low.reshape(-1).tolist(),
        seed=seed,
        seconds=time.perf_counter() - start,
    )
    return Enhancement(
        speech=enhanced,
        noise=noise,
        sample_rate=recording.sample_rate,
        spectrum=spectrum.div_(scale[..., None]),
        wiener_gain=gain,
        speech_std=variance.sqrt_().div_(level[..., None]),
        stft=recording.stft,
        scale=level,
        posteriors=tuple(posteriors),
        segments=tuple(segment.frames for segment in pieces),
        model=recording.speech,
        visual=recording.visual,
        lips=recording.track,
        report=report,
    )


def requested_name(choice: object) -> str:
    """A name or path as it was given; "object" for a loaded pair or an algorithm object."""
    return str(choice) if isinstance(choice, str | Path) else "object"
