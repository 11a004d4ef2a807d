"""What was run, on what, and how it went: plain values for JSON."""

import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pyro
import torch
from torch import Tensor

from avse.data.audio import clipped_fraction
from avse.data.front_end import SILENCE
from avse.data.lips import Lips, Reason
from avse.data.lips.front_end import LipTrack
from avse.inference.algorithm import Algorithm
from avse.inference.posterior import Posterior
from avse.recording import Recording
from avse.version import __version__


def versions() -> dict[str, str]:
    """Versions of this package and of what its numbers depend on."""
    return {
        "avse": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "pyro": pyro.__version__,
        "numpy": np.__version__,
    }


def enhancement_report(
    recording: Recording,
    posteriors: Sequence[Posterior],
    algorithm: Algorithm,
    algorithm_name: str,
    *,
    requested: Mapping[str, str],
    video_given: bool,
    video_offset: float,
    linked: bool,
    low_frequencies: Sequence[float],
    seed: int,
    seconds: float,
) -> dict[str, Any]:
    """Model, algorithm, input, course of the inference, versions, and notes for people.

    Args:
        recording: as the models saw it.
        posteriors: one a segment.
        algorithm: that ran; its `repr` holds all settings.
        algorithm_name: of the preset, or the class of an algorithm object.
        requested: "model" and "algorithm" as the caller gave them, such as "auto".
        video_given: whether there was a video.
        video_offset: s by which it is late.
        linked: whether all channels have one filter.
        low_frequencies: share of what lies below the high-pass that was kept, one number or one a channel.
        seed: of the random draws.
        seconds: that it took.
    """
    pair, samples, sample_rate = recording.pair, recording.samples, recording.sample_rate
    duration = len(samples) / sample_rate
    clipped = clipped_fraction(samples)
    peak = float(np.abs(samples).max())
    model_rate = recording.stft.sample_rate
    report: dict[str, Any] = {
        "model": pair.name,
        "algorithm": algorithm_name,
        "requested": dict(requested),
        "seed": seed,
        "weights_sha256": pair.fingerprint(),
        "algorithm_settings": repr(algorithm),
        "architecture": asdict(pair.config),
        "device": str(pair.device),
        "threads": torch.get_num_threads(),
        "input": {
            "seconds": duration,
            "sample_rate": sample_rate,
            "channels": recording.signal.shape[0],
            "channels_linked": linked,
            "peak": peak,
            "clipped_fraction": clipped,
        },
        "low_frequencies_kept": [round(share, 4) for share in low_frequencies],
        "segments": [_segment_report(posterior) for posterior in posteriors],
        "notes": [*sound_notes(peak, clipped, sample_rate, model_rate), *chain_notes(posteriors)],
        "seconds": seconds,
        "real_time_factor": seconds / duration,
        "versions": versions(),
    }
    if recording.lips is not None and recording.track is not None:
        report["video"], notes = video_report(recording.lips, recording.track, video_offset, duration)
        report["notes"] += notes
        weights = [each.visual_weight for each in posteriors if each.visual_weight is not None]
        if weights:
            report["video"]["trust"], notes = trust_report(weights)
            report["notes"] += notes
    elif video_given:
        reason = (
            "no video frame shows the lips"
            if requested["model"] == "auto"
            else f"model {pair.name} uses the sound alone"
        )
        report["notes"].append(f"the video was not used: {reason}")
    return report


def sound_notes(peak: float, clipped: float, sample_rate: int, model_rate: int) -> list[str]:
    """Notes for people on the samples of a recording.

    Args:
        peak: largest |x|.
        clipped: fraction of the samples at full scale.
        sample_rate: Hz.
        model_rate: Hz, of the model.
    """
    conditions = {
        "the recording is digital silence": peak <= SILENCE,
        f"{clipped:.1%} of the samples are clipped: expect distortion": clipped > 0.001,
        f"speech above {model_rate / 2:g} Hz is not modelled and was removed": sample_rate > model_rate,
    }
    return [note for note, holds in conditions.items() if holds]


def chain_notes(posteriors: Sequence[Posterior]) -> list[str]:
    """Notes for people on sites of the noise of which a chain never moved.

    Args:
        posteriors: one a segment.
    """
    still = {
        name
        for posterior in posteriors
        for name, draws in (posterior.noise_draws or {}).items()
        if draws.shape[1] > 1 and draws.shape[-1] > 1 and _any_chain_still(draws)
    }
    return [
        f"the draws of {name} never moved in some chain: every proposal was rejected, so that they are the "
        "initial values and no sample of the posterior; give more warm-up steps"
        for name in sorted(still)
    ]


def _any_chain_still(draws: Tensor) -> bool:
    """Whether draws (C, D, ...) of one chain are all the same."""
    return bool((draws == draws[:, :1]).flatten(1).all(1).any())


TRUSTED = 0.25
"""Weight of the lips above which a frame counts as one that trusted them."""


def trust_report(weights: Sequence[Tensor]) -> tuple[dict[str, float], list[str]]:
    """How far the lips were trusted, and notes for people.

    Args:
        weights: of the lips, one tensor (*, N) a segment.
    """
    weight = torch.cat([each.flatten() for each in weights])
    mean, trusted = float(weight.mean()), float((weight > TRUSTED).double().mean())
    notes = {
        f"lips were trusted in {trusted:.0%} of the frames, with a mean weight of {mean:.2f}: less where "
        "they are not seen or look damaged": True
    }
    return {"mean_weight": mean, "frames_that_trusted_lips": trusted}, list(notes)


def _segment_report(posterior: Posterior) -> dict[str, Any]:
    """How inference went; "converged" only where the algorithm had a tolerance to meet."""
    course: dict[str, Any] = {
        "iterations": len(posterior.costs),
        "cost": posterior.costs,
        "acceptance": float(posterior.acceptance.mean()),
    }
    if posterior.converged is not None:
        course["converged"] = posterior.converged
    return course


def video_report(
    lips: Lips, track: LipTrack, offset: float, duration: float
) -> tuple[dict[str, Any], list[str]]:
    """What was seen, and notes for people.

    Args:
        lips: found in the video.
        track: what the frames of the sound were shown.
        offset: s by which the pictures come late.
        duration: of the sound, s.
    """
    seen = float(track.valid.double().mean())
    period = 1 / lips.fps
    first, last = float(lips.times[0]) - offset, float(lips.times[-1]) + period - offset
    without = max(0.0, first - period) + max(0.0, duration - last - period)
    beyond = max(0.0, -first - period) + max(0.0, last - duration - period)
    missed = seen < 0.995 and (1 - seen) * duration > 2 * period  # half a period at each end is unavoidable
    notes = {
        f"{without:.2f} s of the sound have no pictures": without > 0,
        f"{beyond:.2f} s of the video have no sound and were not used": beyond > 0,
        f"the lips are not seen in {1 - seen:.0%} of the frames: the sound alone decides there": missed,
    }
    return {
        "pictures": len(lips.times),
        "fps": lips.fps,
        "offset": offset,
        "first_picture": first,
        "seconds": last - first,
        "frames_with_lips": seen,
        "reasons": {r.text: int((lips.reasons == r).sum()) for r in Reason if (lips.reasons == r).any()},
    }, [note for note, holds in notes.items() if holds]
