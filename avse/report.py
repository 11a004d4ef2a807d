"""What was run, on what, and how it went: plain values for JSON."""

import platform
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pyro
import torch
from numpy.typing import NDArray

from avse.data.audio import clipped_fraction
from avse.data.front_end import SILENCE
from avse.data.lip_front_end import LipTrack
from avse.data.lips import Lips, Reason
from avse.inference.posterior import Posterior
from avse.pair import PairConfig
from avse.version import __version__


def audio_report(
    samples: NDArray[Any],
    sample_rate: int,
    config: PairConfig,
    posteriors: Sequence[Posterior],
    seconds: float,
) -> dict[str, Any]:
    """Input, model, course of the inference, versions, and notes for people.

    Args:
        samples: the recording, (T,) or (T, C).
        sample_rate: Hz.
        config: of the pair.
        posteriors: one a segment.
        seconds: that it took.
    """
    duration = len(samples) / sample_rate
    silent = float(np.abs(samples).max()) <= SILENCE
    clipped = clipped_fraction(samples)
    model_rate = config.front_end.stft.sample_rate
    notes = {
        "the recording is digital silence": silent,
        f"{clipped:.1%} of the samples are clipped: expect distortion": clipped > 0.001,
        f"speech above {model_rate / 2:g} Hz is not modelled and was removed": sample_rate > model_rate,
    }
    return {
        "architecture": asdict(config),
        "input": {
            "seconds": duration,
            "sample_rate": sample_rate,
            "channels": 1 if samples.ndim == 1 else samples.shape[1],
            "peak": float(np.abs(samples).max()),
            "clipped_fraction": clipped,
        },
        "segments": [
            {
                "iterations": len(posterior.costs),
                "converged": posterior.converged,
                "cost": posterior.costs,
                "acceptance": float(posterior.acceptance.mean()),
            }
            for posterior in posteriors
        ],
        "notes": [note for note, holds in notes.items() if holds],
        "seconds": seconds,
        "real_time_factor": seconds / duration,
        "versions": {
            "avse": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "pyro": pyro.__version__,
            "numpy": np.__version__,
        },
    }


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
