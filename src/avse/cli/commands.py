"""What the commands do, as functions from files to files.

Torch, Pyro, Matplotlib and ArviZ are imported by the functions that need them, after the files that are given
have been read: a mistake is answered before they are loaded.
"""

import json
import os
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from avse.checks import checked_count, checked_device, checked_seed
from avse.cli.extras import extras
from avse.data.audio import check_writable, long_audio, read_audio, write_audio
from avse.data.errors import InputError
from avse.data.files import atomic_path, check_destination, check_distinct, made_folder

if TYPE_CHECKING:
    from avse.data.corpora.base import Corpus
    from avse.data.lips import Lips
    from avse.recording import Loader
    from avse.zoo.pair import SpeechPair


WHOLE = 30.0
"""s; longer files of sound are enhanced block by block, as long as `avse.recording.SEGMENT`."""


def enhance_file(
    noisy: Path,
    out: Path,
    *,
    video: Path | None = None,
    fps: float | None = None,
    video_offset: float = 0.0,
    model: str = "auto",
    algorithm: str = "auto",
    seed: int = 0,
    audio_track: int | None = None,
    link_channels: bool | None = None,
    device: str = "cpu",
    report: Path | None = None,
    figure: Path | None = None,
    progress: Callable[[float], None] = lambda fraction: None,
    load: "Loader | None" = None,
) -> dict[str, Any]:
    """Enhance a file and write the result; returns the report.

    Everything that can be refused is refused before the computation starts. A noisy file with pictures is its
    own video, unless another is given or the model listens only. If no face is found in it, `model` "auto"
    goes by the sound alone, and the report says so. Models are read by `load`, as for `enhance_with`. Files
    of more than `WHOLE` seconds are enhanced in bounded memory (`avse.long`), where the model uses no lips,
    the algorithm is amortised EM, and no figure is wanted.

    Raises:
        InputError: input, output, model or algorithm cannot be used.
    """
    check_distinct(input=noisy, output=out, report=report, figure=figure)
    check_distinct(video=video, output=out, report=report, figure=figure)  # a video may be its own input
    checked_seed(seed)
    # A figure needs the whole, and sound beside pictures is no long file of sound.
    blocks = long_audio(noisy, WHOLE) if figure is None and not audio_track else None
    audio = read_audio(noisy, audio_track) if blocks is None else None
    check_writable(out)
    for path in (report, figure):
        if path is not None:
            check_destination(path)
    from avse.enhancement import enhance_with
    from avse.inference.presets import algorithm_named
    from avse.long import enhance_blocks, fits_blocks
    from avse.recording import audio_pair, pair_named

    checked_device(device)
    if figure is not None:
        from avse.evaluation.figures import check_figure_format, plain_text, write_figure

        check_figure_format(figure)
    if algorithm != "auto":
        algorithm_named(algorithm)
    pair = model if model == "auto" else pair_named(model, load)
    lips, excuse = _lips_of(noisy, video, fps, pair, audio_track)
    if blocks is not None:
        own = audio_pair(pair, load)
        if lips is None and fits_blocks(own, algorithm):
            found = enhance_blocks(
                blocks,
                out,
                own,
                algorithm,
                requested={"model": model, "algorithm": algorithm},
                seed=seed,
                link_channels=link_channels,
                device=device,
                progress=progress,
            )
            summary = _summary(found, excuse, noisy, out)
            if report is not None:
                write_json(report, summary)
            return summary
    if audio is None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # `long_audio` has told
            audio = read_audio(noisy, audio_track)
    enhancement = enhance_with(
        audio.samples,
        audio.sample_rate,
        video=lips,
        video_offset=video_offset,
        model=pair,
        algorithm=algorithm,
        seed=seed,
        link_channels=link_channels,
        device=device,
        progress=progress,
        load=load,
    )
    write_audio(out, enhancement.speech, audio.sample_rate, audio.subtype)
    summary = _summary(enhancement.report, excuse, noisy, out)
    if figure is not None:
        try:
            write_figure(figure, enhancement.figure(title=plain_text(noisy.name)))
        except (OSError, RuntimeError, ValueError) as error:  # the sound is written; a picture is an extra
            summary["notes"].append(f"{figure}: the figure could not be drawn ({_first_line(error)})")
    if report is not None:
        write_json(report, summary)
    return summary


def _summary(report: dict[str, Any], excuse: list[str], noisy: Path, out: Path) -> dict[str, Any]:
    return {**report, "notes": [*excuse, *report["notes"]], "file": str(noisy), "output": str(out)}


def diagnose_file(
    noisy: Path,
    out: Path,
    *,
    video: Path | None = None,
    fps: float | None = None,
    video_offset: float = 0.0,
    model: str = "auto",
    algorithm: str = "auto",
    chains: int = 4,
    draws: int = 200,
    warmup: int | None = None,
    leapfrog_steps: int = 10,
    seconds: float = 10.0,
    seed: int = 0,
    progress: Callable[[float], None] = lambda fraction: None,
) -> str:
    """Sample the posterior of a file at length and write one page about it; returns the verdict.

    With no chains, the page is about the draws of the algorithm itself.

    Raises:
        InputError: input, output or model cannot be used, or what is asked of the chains cannot be done.
    """
    from avse.evaluation.posterior.diagnosis import verdict
    from avse.evaluation.posterior.report import posterior_report
    from avse.inference.mcmc.kernels import HMC
    from avse.inference.presets import algorithm_named
    from avse.posterior_run import INITIAL_STEP_SIZE, ChainSettings, summarize_posterior
    from avse.recording import pair_named

    kernel = HMC(INITIAL_STEP_SIZE, leapfrog_steps)
    settings = ChainSettings(chains, draws, warmup, kernel) if chains else None
    algorithm_named(algorithm)  # before anything is read
    check_distinct(input=noisy, output=out)
    check_distinct(video=video, output=out)  # a video may be its own input
    checked_seed(seed)
    audio = read_audio(noisy)
    if out.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"{out}: the report is a page of HTML; let the name end in .html")
    check_destination(out)
    pair = model if model == "auto" else pair_named(model)
    lips, excuse = _lips_of(noisy, video, fps, pair)
    found = summarize_posterior(
        audio.samples,
        audio.sample_rate,
        video=lips,
        video_offset=video_offset,
        model=pair,
        algorithm=algorithm,
        settings=settings,
        seconds=seconds,
        seed=seed,
        title=os.fsencode(noisy.name).decode("utf-8", "replace"),
        progress=progress,
    )
    named = {} if model == "auto" else {"model": model}
    found = replace(found, notes=[*excuse, *found.notes], facts={**found.facts, **named})
    with atomic_path(out) as temporary:
        temporary.write_text(posterior_report(found), encoding="utf-8")
    return verdict(found.diagnosis)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _lips_of(
    noisy: Path,
    video: Path | None,
    fps: float | None,
    model: "str | SpeechPair",
    audio_track: int | None = None,
) -> "tuple[Lips | None, list[str]]":
    """The lips to look at, if any, and why there are none where one would expect them."""
    from avse.data.lips import read_lips
    from avse.data.lips.files import lips_from
    from avse.data.lips.video import has_pictures
    from avse.zoo.pair import SpeechPair

    if video is not None:
        return lips_from(video, fps), []
    if not has_pictures(noisy) or (isinstance(model, SpeechPair) and model.config.lips is None):
        return None, []
    try:
        return read_lips(noisy, audio_track), []
    except InputError as error:
        if model != "auto":
            raise
        return None, [f"the sound alone was used ({error})"]


def read_lips_file(video: Path, out: Path, figure: Path | None = None) -> dict[str, int]:
    """Cut the speaker's mouth out of every picture of a video and save it; returns the count of each reason.

    The figure shows the landmarks of the mouth, and its shape over the level of the sound.

    Raises:
        InputError: no usable video, no face, or an output that cannot be written.
    """
    from avse.data.lips import Reason, read_lips
    from avse.data.lips.files import save_lips

    check_distinct(video=video, output=out, figure=figure)
    if out.suffix.lower() != ".npz":
        raise InputError(f"{out}: lips are saved as .npz; let the name end so")
    for path in (out, figure):
        if path is not None:
            check_destination(path)
    if figure is not None:
        from avse.evaluation.figures import check_figure_format, plain_text, write_figure
        from avse.evaluation.lips_figures import shapes_sheet

        check_figure_format(figure)
    lips = read_lips(video)
    save_lips(out, lips)
    if figure is not None:
        write_figure(figure, shapes_sheet(lips, *_sound_level(video), title=plain_text(video.name)))
    return {reason.text: int((lips.reasons == reason).sum()) for reason in Reason}


def _sound_level(video: Path) -> tuple[NDArray[np.floating] | None, NDArray[np.floating] | None]:
    """Level of a video's sound in dB, not under 60 dB below its highest, and its times in s, (N,) each.

    None twice for a video without sound.
    """
    from avse.evaluation.figures import level_db

    try:
        audio = read_audio(video)
    except InputError:
        return None, None
    hop = max(1, round(0.02 * audio.sample_rate))
    mono = audio.samples.mean(axis=1)
    blocks = np.pad(mono, (0, -len(mono) % hop)).reshape(-1, hop)
    level = level_db(np.square(blocks).mean(axis=1))
    return np.maximum(level, level.max() - 60), (np.arange(len(level)) + 0.5) * hop / audio.sample_rate


def train_model(
    recipe: str,
    corpus: str,
    root: Path | None,
    out: Path,
    *,
    epochs: int | None = None,
    seed: int = 0,
    device: str = "cpu",
    resume: bool = False,
    corruption: bool = True,
    cache: Path | None = None,
    licence: str = "unknown",
) -> dict[str, Any]:
    """Train the pair of a recipe; returns a summary of the run.

    Raises:
        InputError: unknown recipe or corpus, no corruption to leave out, no usable root, an output that
            cannot be written.
        KeyboardInterrupt: the run was interrupted; it can be resumed.
    """
    with extras("train"):
        from avse.evaluation.figures import training_figure, write_figure
        from avse.zoo.recipes import RECIPES, run, without_corruption
    if recipe not in RECIPES:
        raise InputError(f"unknown model {recipe!r}: use one of {', '.join(RECIPES)}")
    checked_seed(seed)
    checked_device("cpu" if device == "auto" else device)
    if epochs is not None:
        checked_count(epochs, "--epochs")
    if not licence.strip() or not licence.isprintable():
        raise InputError(f"licence {licence!r}: give a name such as cc-by-4.0, or unknown")
    check_distinct(root=root, output=out, cache=cache)
    plan = RECIPES[recipe]() if corruption else without_corruption(RECIPES[recipe]())
    settings = replace(plan.settings, seed=seed)
    if epochs is not None:
        settings = replace(settings, max_epochs=epochs)
    made_folder(out)
    pair, report = run(
        replace(plan, settings=settings),
        [named_corpus(corpus, root, seed)],
        out,
        device=device,
        resume=resume,
        cache=cache,
        licence=licence,
    )
    write_figure(out / "training.png", training_figure(report.history, title=recipe))
    return {
        "pair": str(out / "pair"),
        "validation_elbo": report.validation_elbo,
        "epochs": report.epochs,
        "seconds": round(report.seconds, 1),
        "train_frames": report.train_frames,
        "parameters": sum(tensor.numel() for tensor in pair.modules().state_dict().values()),
    }


def named_corpus(name: str, root: Path | None, seed: int) -> "Corpus":
    """The corpus of a name.

    Raises:
        InputError: unknown name, or a root is missing.
    """
    if name == "synthetic":
        with extras("synthetic"):
            from avse.data.corpora.synthetic import SyntheticCorpus
        return SyntheticCorpus(seed=seed)
    from avse.data.corpora.folder import FolderCorpus
    from avse.data.corpora.grid import GridCorpus
    from avse.data.corpora.ntcd_timit import NTCDTimitCorpus

    corpora: dict[str, Callable[..., Corpus]] = {
        "folder": FolderCorpus,
        "grid": GridCorpus,
        "ntcd-timit": NTCDTimitCorpus,
    }
    if name not in corpora:
        raise InputError(f"unknown corpus {name!r}: use one of synthetic, {', '.join(corpora)}")
    if root is None:
        raise InputError(f"corpus {name!r} needs --root, the folder that holds it")
    return corpora[name](root)


def run_demo(
    out: Path, seed: int, progress: Callable[[float], None]
) -> tuple[dict[str, dict[str, float]], list[Path]]:
    """Enhance `talking_face` twice with the same model, its lips shown and hidden.

    Returns the metrics of each recording by its name, and the files written.
    """
    made_folder(out)
    from avse.data.lips import Reason
    from avse.enhancement import enhance

    with extras("synthetic", "metrics"):
        from avse.data.corpora.synthetic.demo import talking_face
        from avse.evaluation.figures import metrics_figure, write_figure
        from avse.evaluation.lips_figures import contact_sheet
        from avse.evaluation.metrics import all_metrics
    clean, noisy, rate, lips = talking_face(seed)
    hidden = replace(lips, reasons=np.full_like(lips.reasons, Reason.NO_FACE))
    found = {}
    for step, (name, video) in enumerate({"lips hidden": hidden, "with lips": lips}.items()):

        def report(fraction: float, step: int = step) -> None:
            progress((step + fraction) / 2)

        found[name] = enhance(noisy, rate, video=video, model="av-vae-synthetic", seed=seed, progress=report)
    sounds = {"noisy": noisy, **{name: enhancement.speech for name, enhancement in found.items()}}
    metrics = {name: all_metrics(clean, samples, rate) for name, samples in sounds.items()}
    written = []
    for name, samples in {**sounds, "clean": clean, "noise": found["with lips"].noise}.items():
        written.append(out / f"{name.replace(' ', '_')}.wav")
        write_audio(written[-1], samples, rate)
    title = "a synthetic voice in pink noise at -5 dB"
    figures = {
        "lips.png": contact_sheet(lips, title="drawn from the phonemes"),
        "metrics.png": metrics_figure(metrics),
        **{
            f"{name.replace(' ', '_')}.png": enhancement.figure(title=f"{title}, {name}")
            for name, enhancement in found.items()
        },
    }
    for file, figure in figures.items():
        write_figure(out / file, figure)
    write_json(out / "report.json", {**found["with lips"].report, "metrics": metrics})
    return metrics, [*written, *(out / file for file in figures), out / "report.json"]


def serve_demo(host: str, port: int, seed: int, tell: Callable[[str], None]) -> None:
    """Serve the page to play with until Ctrl-C; `tell` gets its address when it can be opened.

    Raises:
        InputError: an extra is not installed, a seed that cannot be, or no such address or port to listen on.
        KeyboardInterrupt: Ctrl-C; nothing is left behind.
    """
    checked_seed(seed)
    with extras("serve", "synthetic", "metrics"):
        from avse.serve.server import serve
    serve(host, port, seed, tell)


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write plain values, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
