"""Many recordings, one after the other or on several processes; one that fails does not stop the others."""

import json
import secrets
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

import avse.zoo as zoo
from avse.checks import checked_count, checked_device, checked_seed
from avse.data.audio import long_audio, read_audio, write_audio
from avse.data.errors import InputError
from avse.data.files import atomic_path, made_folder
from avse.data.folders import Copy, copies, files_of, is_many
from avse.enhancement import Enhancement, enhance_with, requested_name
from avse.evaluation.processes import in_processes
from avse.inference.algorithm import Algorithm
from avse.inference.presets import algorithm_named
from avse.long import enhance_blocks, fits_blocks
from avse.recording import SEGMENT, Loader, audio_pair, pair_named
from avse.zoo.pair import SpeechPair

Sound = NDArray[Any] | Tensor | str | Path
FAILURES = (InputError, OSError, MemoryError, RuntimeError)
"""What damaged files, full disks and recordings that are too large for the memory raise."""
SETTINGS = "enhancement.json"
"""In the folder of the results: the settings that they were made with."""


@dataclass(frozen=True)
class Outcome:
    """What became of one recording.

    Attributes:
        source: the recording: as it was given, or a file of a folder or pattern that was given.
        status: "enhanced"; "skipped", for a file whose output is there already; or "failed".
        output: the file of the enhanced speech; None where none was asked for.
        enhancement: the result, where no files are written; else None, so that memory does not grow.
        report: of the enhancement, see `Enhancement.report`; None unless enhanced.
        error: why it failed, in one line; else None.
    """

    source: Any
    status: Literal["enhanced", "skipped", "failed"]
    output: Path | None = None
    enhancement: Enhancement | None = None
    report: dict[str, Any] | None = None
    error: str | None = None


@dataclass(frozen=True)
class Settings:
    """How every recording is enhanced; see `avse.enhance`."""

    model: str | Path | SpeechPair = "auto"
    algorithm: str | Algorithm = "auto"
    seed: int = 0
    link_channels: bool | None = None
    device: str | None = None


def enhance_many(
    sources: str | Path | Iterable[Sound],
    sample_rate: int | None = None,
    *,
    out: str | Path | None = None,
    model: str | Path | SpeechPair = "auto",
    algorithm: str | Algorithm = "auto",
    seed: int = 0,
    link_channels: bool | None = None,
    device: str | None = None,
    jobs: int = 1,
    progress: Callable[[float], None] = lambda fraction: None,
) -> Iterator[Outcome]:
    """Enhance many recordings; what comes of each is given in order, once it is there.

        for outcome in avse.enhance_many("recordings", out="enhanced", jobs=4):
            print(outcome.source, outcome.status, outcome.error or outcome.output)

    Every recording is enhanced as `avse.enhance` does it alone, with the same seed. The model is read once,
    and each process holds one recording at a time. A recording whose output is there, and not older than it,
    is skipped: the same call goes on where an interrupted one was. The folder keeps the settings, and outputs
    of other settings are refused. Warnings, such as that a file is damaged, are notes of its report. Of
    videos the sound alone is used; `avse enhance FOLDER` sees their lips.

    Args:
        sources: a folder, whose sound files and videos are taken with their subfolders; a pattern such as
            "speaker*/*.wav"; or several of folders, patterns, files, and samples as `avse.enhance` takes
            them.
        sample_rate: Hz, of the samples.
        out: folder of the enhanced files, which mirrors the names and subfolders of the sources; None gives
            the results instead. No file of the sources is ever replaced.
        model: as for `avse.enhance`.
        algorithm: as for `avse.enhance`.
        seed: as for `avse.enhance`, the same for all.
        link_channels: as for `avse.enhance`.
        device: as for `avse.enhance`.
        jobs: processes of one thread each. A process takes seconds to start, so that more than one helps from
            some ten recordings on.
        progress: told the fraction of the recordings that are done.

    Raises:
        InputError: before any work: no or missing files, two that would have one output, an output that
            would replace an input, samples where `out` is given or without `sample_rate`, an unknown model or
            algorithm, a seed, device or number of jobs that cannot be, or an `out` with outputs of other
            settings. Later: a process was killed.
    """
    checked_count(jobs, "jobs")
    settings = Settings(model, algorithm, checked_seed(seed), link_channels, device)
    check_settings(settings)
    if isinstance(sources, np.ndarray | Tensor):
        raise InputError("one array of samples: give a list of recordings, or use avse.enhance")
    given: list[Sound] = [sources] if isinstance(sources, str | Path) else list(sources)
    if out is not None:
        for source in given:
            if not isinstance(source, str | Path):
                raise InputError("samples have no name to write to: give files, or leave out the folder")
        planned = copies([source for source in given if isinstance(source, str | Path)], out)
        claim(out, settings, planned)
        return outcomes(planned, _written, settings, jobs, progress)
    sounds = [each for source in given for each in _sounds(source)]
    if sample_rate is None and any(not isinstance(sound, str | Path) for sound in sounds):
        raise InputError("samples without a sample rate: give sample_rate in Hz")
    plain = [_Samples(sound, None if isinstance(sound, str | Path) else sample_rate) for sound in sounds]
    return outcomes(plain, _enhanced, settings, jobs, progress)


@dataclass(frozen=True)
class _Samples:
    source: Sound
    sample_rate: int | None


def _sounds(source: Sound) -> list[Sound]:
    """The files of a folder or pattern, or the recording itself; a file that is missing fails by itself."""
    if isinstance(source, str | Path) and is_many(source):
        return list(files_of(source))
    return [source]


def check_settings(settings: Settings) -> None:
    """Check all that concerns no single recording.

    Raises:
        InputError: an unknown model, algorithm or device, or a damaged model.
    """
    if settings.device is not None:
        checked_device(settings.device)
    if isinstance(settings.algorithm, str):
        algorithm_named(settings.algorithm)
    elif not callable(settings.algorithm):
        raise InputError(f"algorithm {settings.algorithm!r}: give a name or an algorithm object")
    if settings.model != "auto":
        pair_named(settings.model)


def claim(out: str | Path, settings: Settings, planned: list[Copy], **others: float | None) -> None:
    """Make the folder of the results, and write there which settings they are made with.

    Args:
        out: the folder.
        settings: of all recordings; weights are told by their fingerprint, those of sound alone for the model
            "auto".
        planned: what will be written; of a folder without a record of settings nothing is there yet.
        others: further settings that the results depend on, by name.

    Raises:
        InputError: it cannot be written, or holds results of other settings, or files that nothing is known
            of under the names of results.
    """
    path = made_folder(out) / SETTINGS
    model, algorithm = settings.model, settings.algorithm
    mine = {
        "model": requested_name(model),
        "weights_sha256": audio_pair(model).fingerprint(),
        "algorithm": algorithm if isinstance(algorithm, str) else repr(algorithm),
        "seed": settings.seed,
        "link_channels": settings.link_channels,
        **others,
    }
    if path.exists():
        try:
            there = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: cannot be read ({error}); give another folder") from error
        if there != mine:
            raise InputError(
                f"{out}: holds recordings enhanced with other settings, {there}; give another folder"
            )
        return
    for copy in planned:
        if copy.output.exists():
            raise InputError(
                f"{copy.output}: is there, and {out} does not say how it was made; give another folder"
            )
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(mine, indent=1) + "\n", encoding="utf-8")


def outcomes(
    work: list[Any],
    function: Callable[[Any, Settings, Loader], Outcome],
    settings: Settings,
    jobs: int,
    progress: Callable[[float], None],
) -> Iterator[Outcome]:
    """What becomes of every piece of work, in order; errors of `FAILURES` as outcomes.

    Args:
        work: objects with a `source`, and an `output` where a file is written.
        function: picklable.
        settings: for all of them.
        jobs: processes.
        progress: told the fraction that is done.
    """
    run = secrets.token_hex(8)
    todo = [(function, each, settings, run) for each in work]
    for done, outcome in enumerate(in_processes(_outcome, todo, jobs, ordered=True)):
        progress((done + 1) / len(work))
        yield outcome


def _outcome(
    function: Callable[[Any, Settings, Loader], Outcome], each: Any, settings: Settings, run: str
) -> Outcome:
    """One piece of work; warnings become notes of its report, as those of other processes would get lost."""
    output = getattr(each, "output", None)
    if output is not None and is_finished(each):
        return Outcome(each.source, "skipped", output)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        try:
            outcome = function(each, settings, lambda name: _loaded(str(name), run))
        except FAILURES as error:
            return Outcome(each.source, "failed", output, error=_reason(error))
    said = [str(each.message) for each in caught if issubclass(each.category, UserWarning)]
    report = outcome.report or {}
    return replace(outcome, report={**report, "notes": [*said, *report.get("notes", [])]})


def is_finished(copy: Copy) -> bool:
    """Whether the output is there and not older than its source; outputs appear whole or not at all."""
    try:
        return copy.output.stat().st_mtime_ns >= copy.source.stat().st_mtime_ns
    except OSError:
        return False


@lru_cache(maxsize=4)
def _loaded(name: str, run: str) -> SpeechPair:
    """A pair, read once a process and call of `enhance_many`."""
    return zoo.load(name)


def _reason(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _enhanced(sound: _Samples, settings: Settings, load: Loader) -> Outcome:
    found = enhance_with(sound.source, sound.sample_rate, load=load, **vars(settings))
    return Outcome(sound.source, "enhanced", enhancement=found, report=found.report)


def _written(copy: Copy, settings: Settings, load: Loader) -> Outcome:
    made_folder(copy.output.parent)
    blocks = long_audio(copy.source, SEGMENT)
    if blocks is not None:
        pair = audio_pair(settings.model, load)
        if fits_blocks(pair, settings.algorithm):
            requested = {
                "model": requested_name(settings.model),
                "algorithm": requested_name(settings.algorithm),
            }
            report = enhance_blocks(
                blocks,
                copy.output,
                pair,
                settings.algorithm,
                requested=requested,
                seed=settings.seed,
                link_channels=settings.link_channels,
                device=settings.device,
            )
            return Outcome(copy.source, "enhanced", copy.output, report=report)
    with warnings.catch_warnings():
        if blocks is not None:
            warnings.simplefilter("ignore")  # `long_audio` has told
        audio = read_audio(copy.source)
    found = enhance_with(audio.samples, audio.sample_rate, load=load, **vars(settings))
    speech = found.speech[:, 0] if audio.samples.shape[1] == 1 else found.speech
    write_audio(copy.output, speech, audio.sample_rate, audio.subtype)
    return Outcome(copy.source, "enhanced", copy.output, report=found.report)
