"""Long files, read, enhanced and written block by block in bounded memory."""

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from avse.data.audio import AudioBlocks, write_audio_blocks
from avse.inference.algorithm import Algorithm
from avse.inference.em.amortised import AmortisedEM
from avse.inference.presets import algorithm_named
from avse.recording import MAX_PEAK
from avse.report import sound_notes, versions
from avse.stream import Stream, long
from avse.zoo.pair import SpeechPair


def fits_blocks(pair: SpeechPair, algorithm: str | Algorithm) -> bool:
    """Whether a pair with an algorithm can enhance block by block: amortised EM, of sound alone."""
    infer, _ = algorithm_named(algorithm, pair.algorithm)
    return pair.config.lips is None and isinstance(infer, AmortisedEM)


def enhance_blocks(
    audio: AudioBlocks,
    out: Path,
    pair: SpeechPair,
    algorithm: str | Algorithm = "auto",
    *,
    requested: dict[str, str],
    seed: int = 0,
    link_channels: bool | None = None,
    device: str | None = None,
    progress: Callable[[float], None] = lambda fraction: None,
) -> dict[str, Any]:
    """Enhance a long file into another one; returns the report.

    Blocks of 10 s, whose noise models go on from each other (`avse.stream`), so that there are no seams.

    Args:
        audio: the file.
        out: .wav, .flac or .ogg, in the sample format of the input where it can be.
        pair: of sound alone.
        algorithm: see `fits_blocks`.
        requested: "model" and "algorithm" as the caller gave them, for the report.
        seed: as for `avse.enhance`.
        link_channels: as for `avse.enhance`.
        device: as for `avse.enhance`.
        progress: told the fraction that is done.

    Raises:
        InputError: see `avse.Stream`, or the output cannot be written.
    """
    start = time.perf_counter()
    schedule = long(pair.stft)
    stream = Stream(
        audio.sample_rate,
        audio.channels,
        model=pair,
        algorithm=algorithm,
        seed=seed,
        link_channels=link_channels,
        device=device,
        schedule=schedule,
    )

    unit = np.float32(audio.peak if audio.peak > MAX_PEAK else 1.0)

    def pieces() -> Iterator[NDArray[np.float32]]:
        given = 0
        for block in audio:
            given += len(block)
            yield block / unit
            progress(0.99 * given / audio.frames)

    enhanced = (speech * unit for speech in stream.enhanced(pieces()))
    write_audio_blocks(out, enhanced, audio.channels, audio.sample_rate, audio.subtype)
    seconds, duration = time.perf_counter() - start, audio.frames / audio.sample_rate
    progress(1.0)
    return {
        "model": pair.name,
        "algorithm": stream.algorithm,
        "requested": requested,
        "seed": seed,
        "weights_sha256": pair.fingerprint(),
        "algorithm_settings": repr(stream.infer),
        "architecture": asdict(pair.config),
        "device": str(stream.pair.device),
        "threads": torch.get_num_threads(),
        "input": {
            "seconds": duration,
            "sample_rate": audio.sample_rate,
            "channels": audio.channels,
            "channels_linked": stream.linked,
            "peak": audio.peak,
            "clipped_fraction": audio.clipped_fraction,
        },
        "low_frequencies_kept": [round(share, 4) for share in stream.low_frequencies],
        "blocks": asdict(schedule),
        "notes": sound_notes(audio.peak, audio.clipped_fraction, audio.sample_rate, pair.stft.sample_rate),
        "seconds": seconds,
        "real_time_factor": seconds / duration,
        "versions": versions(),
    }
