"""What `avse enhance` does with several recordings."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from avse.checks import checked_count, checked_seed
from avse.cli.commands import enhance_file
from avse.data.files import made_folder
from avse.data.folders import Copy
from avse.many import Outcome, Settings, check_settings, claim, outcomes
from avse.recording import Loader


def enhance_copies(
    work: list[Copy],
    out: Path,
    *,
    video_offset: float = 0.0,
    model: str = "auto",
    algorithm: str = "auto",
    seed: int = 0,
    audio_track: int | None = None,
    link_channels: bool | None = None,
    device: str = "cpu",
    jobs: int = 1,
    progress: Callable[[float], None] = lambda fraction: None,
) -> Iterator[Outcome]:
    """Enhance files into a folder as `enhance_file` does each; see `avse.enhance_many`.

    Raises:
        InputError: a seed, device, model, algorithm or number of jobs that cannot be, or a folder that cannot
            be used; then nothing is computed.
    """
    checked_count(jobs, "--jobs")
    settings = Settings(model, algorithm, checked_seed(seed), link_channels, device)
    check_settings(settings)
    claim(out, settings, work, video_offset=video_offset, audio_track=audio_track)
    function = partial(_enhanced, video_offset=video_offset, audio_track=audio_track)
    return outcomes(work, function, settings, jobs, progress)


def _enhanced(
    copy: Copy, settings: Settings, load: Loader, *, video_offset: float, audio_track: int | None
) -> Outcome:
    options: dict[str, Any] = vars(settings)
    made_folder(copy.output.parent)
    report = enhance_file(
        copy.source,
        copy.output,
        video_offset=video_offset,
        audio_track=audio_track,
        load=load,
        **options,
    )
    return Outcome(copy.source, "enhanced", copy.output, report=report)
